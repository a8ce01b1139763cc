"""Events as lines."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import string
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor_uvicorn.model import Answer, HttpOutcome, State, Ticks, Usage, Verdict, WorkerId
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.evidence import evidence
from supervisor_uvicorn.report.log import Log, json_line, one_line, text_line
from supervisor_uvicorn.verdict import Past

NOW = datetime.datetime(2026, 11, 22, 6, 38, 1, 123456, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
WORKER = WorkerId("web:web-1", 4711, 99)

EVERY_KIND: list[tuple[events.Event, dict[str, object]]] = [
    (events.Watching("web", "tcp://127.0.0.1:8000", ("web:web-0",)), {"event": "watching", "program": "web"}),
    (events.NotWatched("web:web-0", "a tree"), {"event": "watching", "worker": "web:web-0", "watched": False}),
    (events.Pinned(WORKER), {"event": "pinned", "worker": "web:web-1", "pid": 4711}),
    (
        events.VerdictChanged("web:web-1", WORKER, Verdict.SILENT, "late", Verdict.HEALTHY),
        {"event": "verdict", "verdict": "silent", "reason": "late", "before": "healthy", "pid": 4711},
    ),
    (
        events.VerdictChanged("web:web-1", None, Verdict.UNKNOWN, "gone", None),
        {"event": "verdict", "worker": "web:web-1", "before": None},
    ),
    (
        events.Restarting(WORKER, "silent", "for 2 s", "abort", "silent"),
        {"event": "restart", "reason": "silent", "verdict": "silent", "worker": "web:web-1", "pid": 4711},
    ),
    (
        events.WouldRestart(WORKER, "silent", "for 2 s", "abort", "silent"),
        {"event": "would-restart", "reason": "silent", "pid": 4711},
    ),
    (
        events.Replaced(WORKER, 4000, "silent", 1.23456),
        {"event": "replaced", "old_pid": 4000, "pid": 4711, "took_s": 1.235},
    ),
    (
        events.Restarting(WORKER, "silent", "for 2 s", "abort", "silent", {"lag_s": 2.0}),
        {"event": "restart", "evidence": {"lag_s": 2.0}},
    ),
    (events.Rolling("web", "is being rolled"), {"event": "roll", "program": "web", "level": "INFO"}),
    (events.RollStopped("web", "is no longer rolled"), {"event": "roll", "program": "web", "level": "ERROR"}),
    (events.Paused("web:web-1", "is paused", "paused"), {"event": "paused", "worker": "web:web-1", "level": "WARN"}),
    (events.Held("web", "is held", "panic"), {"event": "held", "program": "web", "reason": "panic"}),
    (events.Suspended("web:web-1", "x", "budget"), {"event": "suspended", "worker": "web:web-1"}),
    (events.Resumed("web", "x", "budget"), {"event": "resumed"}),
    (events.Error("", "our own trouble"), {"event": "error", "level": "ERROR"}),
    (events.Helpers("web:web-1", "x", worker=WORKER, more={"helpers": [1]}), {"event": "helpers", "helpers": [1]}),
]


@pytest.mark.parametrize(("event", "promised"), EVERY_KIND)
def test_json_lines_have_the_promised_keys(event: events.Event, promised: dict[str, object]) -> None:
    line = json_line(event, NOW)
    assert line.count("\n") == 1
    found = json.loads(line)
    assert {"time", "level", "event", "message"} <= found.keys()
    assert datetime.datetime.fromisoformat(found["time"]) == NOW.replace(microsecond=123000)
    assert found["message"]
    assert {key: found.get(key) for key in promised} == promised


@pytest.mark.parametrize("event", [event for event, _ in EVERY_KIND])
def test_an_event_is_the_same_object_in_the_log_and_in_the_history(event: events.Event) -> None:
    assert json.loads(json_line(event, NOW)) == json.loads(json.dumps(events.as_object(event, NOW)))


def test_evidence_is_for_machines() -> None:
    bare = events.Restarting(WORKER, "silent", "for 2 s", "abort", "silent")
    assert "evidence" not in bare.fields
    with_evidence = events.Restarting(WORKER, "silent", "for 2 s", "abort", "silent", {"lag_s": 2.0})
    assert with_evidence.message == bare.message


def test_the_text_line_is_as_supervisord_writes_its_own() -> None:
    line = text_line(events.Restarting(WORKER, "silent", "for 2 s", "abort", "silent"), NOW)
    assert line == ("2026-11-22 06:38:01,123 WARN restart: restarting web:web-1 (pid 4711), silent: for 2 s; abort\n")


@given(st.text() | st.binary().map(os.fsdecode))
def test_a_workers_words_never_break_a_line(words: str) -> None:
    for line in (text_line(events.Error("web:a", words), NOW), json_line(events.Error("web:a", words), NOW)):
        line.encode(errors="backslashreplace")
        assert len(line.splitlines()) == 1
        assert line.endswith("\n")
        assert all(char.isprintable() for char in line[:-1])


def test_escaping_leaves_what_can_be_printed() -> None:
    printable = string.ascii_letters + string.digits + string.punctuation + " äöü日本"
    assert one_line(printable) == printable
    assert one_line("a\nb\x1b[31m\x00\u2028") == "a\\nb\\x1b[31m\\x00\\u2028"


def _lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_full_pipe_never_blocks_and_what_is_lost_is_counted() -> None:
    read, write = os.pipe()
    try:
        log = Log(write, "json", lambda: NOW)
        done = threading.Event()

        def fill() -> None:
            for number in range(5000):
                log(events.Error("", f"line {number} " + "x" * 100))
            done.set()

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        assert done.wait(30), "a full pipe blocked the log"
        first = _lines(os.read(read, 1 << 20))
        log(events.Error("", "after"))
        lost, after = _lines(os.read(read, 1 << 20))[-2:]
        assert lost["message"] == f"{5000 - len(first)} log lines lost: nobody emptied the pipe"
        assert after["message"] == "after"
    finally:
        os.close(read)
        os.close(write)


def test_a_line_that_went_out_in_part_is_finished_first() -> None:
    """Beyond PIPE_BUF (4,096 bytes, pipe(7)) a write may be taken in part; a torn line would spoil the next one."""
    read, write = os.pipe()
    try:
        log = Log(write, "json", lambda: NOW)
        for number in range(40):
            log(events.Error("", f"line {number} " + "x" * 9000))
        data = os.read(read, 1 << 20)
        assert not data.endswith(b"\n"), "the pipe took whole lines only, so this test shows nothing"
        log(events.Error("", "after"))
        found = _lines(data + os.read(read, 1 << 20))
        assert found[-1]["message"] == "after"
        whole = len(found) - 2
        assert found[-2]["message"] == f"{40 - whole} log lines lost: nobody emptied the pipe"
    finally:
        os.close(read)
        os.close(write)


def test_a_closed_pipe_and_a_file_are_no_trouble(tmp_path: Path) -> None:
    read, write = os.pipe()
    log = Log(write, "text", lambda: NOW)
    os.close(read)
    log(events.Error("", "nobody reads"))
    os.close(write)
    with (tmp_path / "log").open("ab") as file:
        Log(file.fileno(), "text", lambda: NOW)(events.Error("", "in a file"))
    assert (tmp_path / "log").read_text().endswith("ERROR error: in a file\n")


# -- evidence --------------------------------------------------------------------------------------------------------

CONDEMNED = Past(
    "web:web-1",
    WORKER,
    100.0,
    state=State.RUNNING,
    verdict=Verdict.FAILING,
    reason="3 wrong answers one after another, the last: status 500",
    since=150.0,
    lag_s=0.00002,
    serving=True,
    pinned=True,
    ticks=Ticks(1234, 5.6789),
    moved_at=158.0,
    http=HttpOutcome(Answer.WRONG, "status 500", 500, 0.0123456789, b"Traceback: gone"),
    wrong=3,
    usage=Usage(at=156.0, age_s=60.0, rss_bytes=50_000_000, fds=20, fds_limit=1024, helpers=2),
)


def test_evidence_is_what_a_look_had_shown() -> None:
    assert evidence(CONDEMNED, 160.0) == {
        "verdict": "failing",
        "verdict_s": 10.0,
        "reason": "3 wrong answers one after another, the last: status 500",
        "state": "RUNNING",
        "seen_s": 60.0,
        "serving": True,
        "pinned": True,
        "unread_s": None,
        "lag_s": 0.00002,
        "ticks": {"switches": 1234, "cpu_s": 5.679, "unmoved_s": 2.0},
        "traced_by": None,
        "wrong_answers": 3,
        "http": {"status": 500, "seconds": 0.012346, "reason": "status 500", "body": "Traceback: gone"},
        "usage": {"age_s": 64.0, "rss_bytes": 50_000_000, "helpers": 2, "fds": 20, "fds_limit": 1024},
    }
    silent = dataclasses.replace(CONDEMNED, http=None, ticks=None, unread_since=128.5, traced_by=7)
    found = evidence(silent, 160.0)
    assert (found["unread_s"], found["ticks"], found["http"], found["traced_by"]) == (31.5, None, None, 7)


@given(st.binary(max_size=512), st.text(max_size=2000))
@example(b"\0" * 512, "\0" * 2000)
@example(b"\xff" * 512, "")
def test_evidence_is_small_and_json_whatever_a_worker_answers(body: bytes, words: str) -> None:
    http = HttpOutcome(Answer.WRONG, words, 500, 0.1, body)
    text = json.dumps(evidence(dataclasses.replace(CONDEMNED, http=http, reason=words), 160.0), allow_nan=False)
    assert len(text) <= 2300
    shown = json.loads(text)["http"]
    assert body.decode("utf-8", "replace").startswith(shown["body"])
    assert words.startswith(shown["reason"])
    if body.isascii() and body.decode().isprintable():
        assert len(shown["body"]) == len(body), "plain text is shown whole"
