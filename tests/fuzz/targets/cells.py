"""Texts that lie in supervisord's memory or come in an event or from another program, each read by one function."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from fuzz.choices import JSON_TOKENS, json_text, raw
from fuzz.target import Check, Target, for_a_terminal, holds
from supervisor_uvicorn import memory
from supervisor_uvicorn.explain import stack
from supervisor_uvicorn.explain.frames import MAX_BYTES, MAX_FRAMES, lines
from supervisor_uvicorn.ledger import Ledger
from supervisor_uvicorn.panic import Panic
from supervisor_uvicorn.supervisord import request
from supervisor_uvicorn.uvicorn_command import arguments, options, tree, wanted

NOW = 5000.0


def _always(check: Check) -> Callable[[], AbstractContextManager[Check]]:
    @contextmanager
    def session() -> Iterator[Check]:
        yield check

    return session


# -- a request (REMOTE_COMMUNICATION) --------------------------------------------------------------------------------

_REQUESTS = (
    {"id": "a1b2", "verb": "restart", "names": ["web", "api:*", "all"], "for_s": None, "sent_at": 1_700_000_000.5},
    {"id": "c3", "verb": "pause", "names": [], "for_s": 90, "sent_at": 1.0},
)


def check_request(data: bytes) -> None:
    try:
        found = request.parse(json_text(data, _REQUESTS))
    except request.BadRequest as error:
        holds(len(str(error)) <= 400, f"a refusal of {len(str(error))} characters")
        holds(len(error.ident) <= request.MOST_IDENT_CHARACTERS and error.ident.isprintable(), "an odd ident")
        return
    holds(request.parse(found.text()) == found, f"written and read again it is another one: {found!r:.300}")
    holds(found.verb in request.VERBS and len(found.names) <= request.MOST_NAMES, "not within its bounds")


# -- the memory cell -------------------------------------------------------------------------------------------------

_MEMORY = {
    "version": 1,
    "at": 4990.0,
    "programs": {
        "web": {
            "spending": [[4000.0, "web:web-0"], [4500.5, "web:web-1"]],
            "waiting": {"web:web-0": [4000.0, 20.0]},
            "recycled": {"web:web-1": [4100.0, 10]},
            "suspended": ["web", "web:web-1"],
            "panic": {"since": 4900.0, "canary_at": 4960.0, "canaries": 2},
            "roll": {
                "asked": ["a1"],
                "turns": [
                    {"name": "web:web-0", "old": [88, 1234], "stage": "under way", "gone_at": 4980.0, "new_pid": 0,
                     "detail": ""},
                    {"name": "web:web-1", "old": None, "stage": "done", "gone_at": None, "new_pid": 91, "detail": "x"},
                ],
                "since": 4970.0, "state": "rolling", "detail": "waits", "ended_at": None, "waiting_since": 4985.0,
            },
            "served": [["web:web-0", 88, 1234]],
        }
    },
    "paused": {"all": None, "web:web-2": 5040.0},
    "answers": [{"id": "a1", "verb": "restart", "accepted": True, "detail": "rolling"}],
}  # fmt: skip


def check_memory(data: bytes) -> None:
    found = memory.from_text(json_text(data, (_MEMORY,)), NOW)
    if found is None:
        return
    holds(0 <= found.away_s <= memory.MOST_S, f"away for {found.away_s} s")
    holds(len(found.answers) <= memory.MOST_ANSWERS, "more answers than are kept")
    text = memory.to_text(Ledger(dict(found.programs)), found.paused, found.answers, NOW)
    json.loads(text, parse_constant=_no_constant)
    again = memory.from_text(text, NOW)
    holds(again is not None, "what was written cannot be read")
    assert again is not None
    holds((again.paused, again.answers) == (found.paused, found.answers), "pauses or answers were lost")
    for group, program in found.programs.items():
        back = again.programs.get(group)
        if back is None:  # nothing to remember is not written
            holds(
                program.panic == Panic() and program.roll is None and not program.spending.restarts, f"{group} is lost"
            )
        else:
            holds(replace(back) == program, f"{group} was {program!r:.400} and is {back!r:.400}")


def _no_constant(word: str) -> None:
    holds(False, f"{word} was written, which is no JSON")


# -- py-spy's answer -------------------------------------------------------------------------------------------------

_THREADS = [
    {
        "pid": 7, "thread_id": 140, "thread_name": "MainThread", "os_thread_id": 7, "active": True, "owns_gil": False,
        "frames": [
            {"name": "wait", "filename": "/srv/app/main.py", "short_filename": "main.py", "line": 62, "locals": None},
            {"name": "run", "filename": "/usr/lib/python3.11/asyncio/runners.py", "line": 118},
            {"name": "<module>", "filename": "/v/lib/python3.11/site-packages/uvicorn/__main__.py", "line": 4},
        ],
    },
    {"pid": 7, "thread_name": "worker", "os_thread_id": 9, "owns_gil": True, "frames": [
        {"name": "spin", "filename": "/srv/app/lib.py", "line": 1}]},
]  # fmt: skip


def check_stack(data: bytes) -> None:
    answer = json_text(data, (_THREADS,)).encode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")
    found = stack.parse(answer, 7)
    holds(bool(found.why) is not bool(found.main), "neither a stack nor a reason, or both")
    for_a_terminal(found.why, "why")
    holds("\n" not in found.why and len(json.dumps(found.why)) <= 160, f"a reason of {len(found.why)} characters")
    for frames in (found.main, found.holder):
        texts = lines(frames, "/srv/app")
        holds(len(texts) <= MAX_FRAMES and len(json.dumps(texts)) <= MAX_BYTES, "more lines than may be")
        for text in texts:
            holds("\n" not in text, "a frame of two lines")
            for_a_terminal(text, "a frame")
    words = stack._words(answer.decode("utf-8", "replace"), 1)
    for_a_terminal(words, "py-spy's words")
    holds("\n" not in words and len(json.dumps(words)) <= 160, "words that are too long")


# -- a worker's command line and environment -------------------------------------------------------------------------


def check_command_line(data: bytes) -> None:
    """Up to a part that is empty: the arguments; then the environment."""
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    cut = words.index("") if "" in words else len(words)
    argv, rest = words[:cut], words[cut + 1 :]
    found = arguments(argv)
    environ = {key: value for key, _, value in (word.partition("=") for word in rest)} if rest else None
    args = argv if found is None else found
    its = options(args, environ)
    holds(all(isinstance(value, int | None) for value in (its.fd, its.limit_concurrency)), "an option of another type")
    holds(isinstance(its.max_head_bytes, int) and its.environ_read is (environ is not None), "an odd option")
    tree(args, environ)
    wanted(args, environ)


def _line(*words: str) -> bytes:
    return "\0".join(words).encode("utf-8", "surrogateescape")


REQUEST = Target(
    "request",
    "requests of verbs, in an event (``request.parse``)",
    _always(check_request),
    (b"\x00", b"\x01", *(raw(json.dumps(one)) for one in _REQUESTS), raw('{"id": 1e400}'), raw("[" * 50)),
    JSON_TOKENS,
    weight=2,
)
MEMORY = Target(
    "memory",
    "the memory cell (``memory.from_text``)",
    _always(check_memory),
    (b"\x00", raw(json.dumps(_MEMORY)), raw('{"version": 1, "at": 1}')),
    JSON_TOKENS,
)
STACK = Target(
    "stack",
    "py-spy's JSON and its complaints (``explain/stack.py``)",
    _always(check_stack),
    (b"\x00", raw(json.dumps(_THREADS)), raw("Error: Permission denied\nCaused by:\n x\nStack backtrace"), raw("[{}]")),
    JSON_TOKENS,
)
COMMAND_LINE = Target(
    "command-line",
    "a worker's command line and environment (``uvicorn_command.py``)",
    _always(check_command_line),
    (
        _line("/venv/bin/python", "/venv/bin/uvicorn", "--fd", "0", "example:App"),
        _line(
            "python3", "-X", "dev", "-um", "uvicorn", "--workers", "2", "a:b", "", "UVICORN_FD=3", "WEB_CONCURRENCY=4"
        ),
        _line("uvicorn", "--ssl-cert-reqs=2", "--limit-concurrency=x", "--uds=/x", "", "UVICORN_RELOAD=1"),
    ),
    (b"\0", b"--fd\0", b"=", b"-m", b"\xff", b"9" * 5000, b"UVICORN_", b"--workers", "٣".encode()),
    weight=2,
)
