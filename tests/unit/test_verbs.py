"""``status``, ``pause``, ``resume``, ``history`` and their command line, against a scripted board."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from verbs_desk import Desk, Screen, no, note, page, program, roll, turn, worker, yes

from supervisor_uvicorn import cli, operations
from supervisor_uvicorn.ledger import Ledger
from supervisor_uvicorn.model import State
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord import request
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.supervisord.rpc import SHUTDOWN_STATE, UNKNOWN_METHOD, Fault, RpcError, Unauthorized
from supervisor_uvicorn.verbs import command
from supervisor_uvicorn.verbs.asking import Listener
from supervisor_uvicorn.verbs.console import Console, Unwritable, silence
from supervisor_uvicorn.verbs.page import BadPage, read_page


def run(desk: Desk, *words: str, live: bool = False) -> tuple[int, Screen]:
    screen = Screen(desk, live)
    return command.carry_out(cli.parser().parse_args(words), desk, screen.console), screen


def showing(board: Any) -> Desk:
    return Desk(lambda _, __: board)


# -- the page


def test_ages_are_those_of_now() -> None:
    its = roll("i", turn("web:web-0"))
    ended = roll("j", turn("api:api-0", "done"), state="done", took_s=2.0)
    found = read_page(note(page(program(roll=its), program("api", roll=ended), age_s=0.25), 4.0))
    assert found.age_s == 4.25
    assert found.body["age_s"] == 4.25
    web, api = found.body["programs"]
    assert [one["since_s"] for one in web["workers"]] == [104.0, 104.0]
    assert (web["roll"]["since_s"], api["roll"]["since_s"]) == (7.0, 7.0)
    assert api["roll"]["took_s"] == 2.0


def test_stale_is_three_times_what_the_page_says_itself() -> None:
    for every_s, age_s, stale in ((5.0, 15.0, False), (5.0, 15.1, True), (1.0, 3.1, True), (30.0, 60.0, False)):
        listener = {"pid": 1, "reports_every_s": every_s}
        assert read_page(note(page(listener=listener), age_s)).stale is stale


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no page"),
        ('{"a": 1}', "no page"),
        ('{"version": 2}', "version 2.*older than the listener"),
        ('{"version": 1, "programs": [{}]}', "cannot be read"),
        ('{"version": 1, "programs": 3}', "cannot be read"),
        ('{"version": 1, "programs": [{"name": "web", "workers": [7]}]}', "cannot be read"),
        ('{"version": 1, "listener": [1]}', "cannot be read"),
    ],
)
def test_what_is_no_page_is_said(text: str, said: str) -> None:
    with pytest.raises(BadPage, match=said):
        read_page(Note(text, 1.0))
    code, screen = run(showing(Note(text, 1.0)), "status")
    assert (code, screen.lines) == (2, [])


def test_a_page_that_lacks_what_another_version_has_is_read() -> None:
    found = {"version": 1, "programs": [{"name": "web", "workers": [{"name": "web:web-0"}], "roll": {"turns": []}}]}
    code, screen = run(showing(note(found)), "status")
    assert code == 1
    assert "web:web-0" in screen.out.getvalue()


# -- status


def test_status_0_1_and_what_is_stopped_does_not_count() -> None:
    sick = worker("web:web-1", 12, verdict="failing", reason="status 500")
    down = worker("web:web-1", None, verdict="unknown", state="STOPPED")
    for its, code in (([worker()], 0), ([worker(), sick], 1), ([worker(), down], 0), ([down], 1)):
        got, screen = run(showing(page(program(workers=its))), "status")
        assert got == code
        assert screen.notes == ""
    starting = worker("web:web-1", 12, verdict="starting")
    assert run(showing(page(program(workers=[worker(), starting]))), "status")[0] == 1


def test_status_names_choose_workers() -> None:
    sick = worker("api:api-0", 12, verdict="silent")
    desk = showing(page(program(), program("api", [sick])))
    assert run(desk, "status")[0] == 1
    code, screen = run(desk, "status", "--json", "web:*")
    assert code == 0
    (only,) = json.loads(screen.out.getvalue())["programs"]
    assert [one["name"] for one in only["workers"]] == ["web:web-0", "web:web-1"]
    code, screen = run(desk, "status", "--json", "web:web-1", "api")
    names = [one["name"] for found in json.loads(screen.out.getvalue())["programs"] for one in found["workers"]]
    assert (code, names) == (1, ["web:web-1", "api:api-0"])
    code, screen = run(desk, "status", "wob")
    assert (code, screen.lines) == (2, [])
    assert screen.notes == (
        "supervisor-uvicorn status: wob: no such uvicorn worker or program (programs here: api, web)\n"
    )


def test_a_program_without_a_process_is_a_name_too() -> None:
    code, screen = run(showing(page(program(), program("api", []))), "status", "--json", "api:*")
    assert code == 1
    assert [found["name"] for found in json.loads(screen.out.getvalue())["programs"]] == ["api"]


def test_status_json_is_one_object_without_the_answers() -> None:
    code, screen = run(showing(page(program(), answers=[yes("i")])), "status", "--json")
    found = json.loads(screen.out.getvalue())
    assert code == 0
    assert found["age_s"] == 0.5
    assert set(found) == {"version", "listener", "age_s", "programs"}
    assert screen.out.getvalue().count("\n") == 1


def test_a_stale_page_is_shown_and_is_2() -> None:
    listeners = [Listener("uvicorn-health:uvicorn-health", State.FATAL, "/var/log/it.log")]
    desk = Desk(lambda _, __: note(page(program()), 61.0), listeners=listeners)
    code, screen = run(desk, "status", "--json")
    assert code == 2
    assert json.loads(screen.out.getvalue())["age_s"] == 61.0
    assert screen.notes == (
        "supervisor-uvicorn status: the listener has not reported for 61 s (it does so each 5 s): "
        "uvicorn-health:uvicorn-health is FATAL, see `supervisorctl status` and its stderr log /var/log/it.log\n"
    )


def test_without_plugin_or_report_it_is_2_with_the_lines_to_paste() -> None:
    code, screen = run(showing(None), "status")
    assert (code, screen.lines) == (2, [])
    assert "[rpcinterface:uvicorn]\nsupervisor.rpcinterface_factory = supervisor_uvicorn.plugin." in screen.notes
    assert "supervisor-uvicorn check" in screen.notes
    desk = Desk(lambda _, __: Note())
    desk.listeners = list  # type: ignore[method-assign]
    code, screen = run(desk, "status")
    assert (code, screen.lines) == (2, [])
    assert "[eventlistener:uvicorn-health]\ncommand=supervisor-uvicorn listen" in screen.notes
    desk = Desk(lambda _, __: Note(), listeners=[Listener("h:h", State.RUNNING)])
    code, screen = run(desk, "status")
    assert code == 2
    assert "h:h is RUNNING" in screen.notes
    assert "[eventlistener" not in screen.notes


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unauthorized("http://h:9001 wants a user name"), "-u and -p"),
        (Fault(SHUTDOWN_STATE, "SHUTDOWN_STATE"), "shutting down"),
        (Fault(UNKNOWN_METHOD, "UNKNOWN_METHOD"), "[rpcinterface:supervisor]"),
        (RpcError("words"), "words"),
    ],
)
def test_an_error_of_a_call_is_a_line_for_a_person(error: RpcError, said: str) -> None:
    for verb in ("status", "pause"):
        code, screen = run(showing(error), verb)
        assert (code, screen.lines) == (2, [])
        assert said in screen.notes
        assert "eventlistener" not in screen.notes


NAMES = ["web:web-0", "web:web-1"]


def test_status_watch_goes_on_until_ctrl_c_whatever_comes() -> None:
    sick = page(program(workers=[worker(verdict="failing")]))
    boards = [page(program()), RpcError("gone for a moment"), None, sick, KeyboardInterrupt()]

    def play(_: float, __: Request | None) -> Any:
        return boards.pop(0)

    code, screen = run(Desk(play), "status", "--json", "--watch", "web")
    assert code == 1, "of the last look"
    assert [json.loads(line)["programs"][0]["workers"][0]["verdict"] for line in screen.lines] == ["healthy", "failing"]
    assert "gone for a moment" in screen.notes
    assert "[rpcinterface:uvicorn]" in screen.notes
    boards = [page(program()), sick, KeyboardInterrupt()]
    code, screen = run(Desk(play), "status", "--watch")
    assert (code, [line.split()[0] for line in screen.lines]) == (
        1,
        [*["web", "NAME", *NAMES], "web", "NAME", NAMES[0]],
    )
    boards = [page(program()), sick, KeyboardInterrupt()]
    code, screen = run(Desk(play), "status", "--json", "--watch", live=True)
    assert (code, len(screen.lines)) == (1, 2)
    assert "\x1b" not in screen.out.getvalue(), "an object a line is for programs"
    boards = [page(program())]
    assert run(Desk(play), "status", "--watch", "wob")[0] == 2


# -- pause and resume


def answering(board: dict[str, Any], accepted: bool, detail: str) -> Desk:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        if request is None or since_s < 1:
            return board
        answer = (yes if accepted else no)(request.ident, request.verb, detail)
        return {**board, "answers": [answer]}

    return Desk(play)


def test_pause_and_resume_say_the_listener_s_words() -> None:
    desk = answering(page(program()), True, "paused web for 300 s")
    code, screen = run(desk, "pause", "--for", "5m", "web")
    assert (code, screen.lines) == (0, ["paused web for 300 s"])
    assert [(one.verb, one.names, one.for_s) for one in desk.sent] == [("pause", ("web",), 300.0)]
    desk = answering(page(program()), True, "")
    code, screen = run(desk, "resume")
    assert (code, screen.lines) == (0, ["resumed"])
    assert [(one.verb, one.names, one.for_s) for one in desk.sent] == [("resume", (), None)]
    assert len(desk.sent[0].ident) == 16
    code, screen = run(answering(page(program()), False, "wob: no such program"), "pause", "wob")
    assert (code, screen.lines) == (2, [])
    assert screen.notes == "supervisor-uvicorn pause: refused: wob: no such program\n"


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), ("2d", 172800.0)]
)
def test_times(text: str, value: float) -> None:
    assert command.seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "m", "5x", "nan", "inf", "1e400", "5 minutes", "1e300", "3651d", "9" * 400]
)
def test_what_is_no_time_says_what_to_write(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 90, 90s, 5m or 1h"):
        command.seconds(text)


def test_ten_years_are_the_most() -> None:
    assert command.seconds("3650d") == request.MOST_FOR_S
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'1e300' is longer than ten years; write"):
        command.seconds("1e300")
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        command.seconds("9" * 100_000)
    assert len(str(refused.value)) < 200


# -- history

ENTRIES = [
    {
        "time": "2026-11-22T10:00:00.000+00:00",
        "event": "restart",
        "message": "web:web-0: silent\nx",
        "worker": "web:web-0",
    },
    {"time": "2026-11-22T10:00:09.000+00:00", "event": "roll", "message": "web: roll done", "program": "web"},
    {"time": "2026-11-22T10:01:00.000+00:00", "event": "held", "message": "api held", "worker": "api:api-0"},
]


def kept(entries: list[dict[str, Any]]) -> Note:
    return Note(json.dumps({"version": 1, "entries": entries, "restarts": {}}), 1.0, 1.0)


def test_history_newest_last_a_line_each() -> None:
    code, screen = run(Desk(lambda _, __: None, history=kept(ENTRIES)), "history")
    assert code == 0
    assert screen.lines == [
        "2026-11-22T10:00:00.000+00:00  restart        web:web-0: silent\\nx",
        "2026-11-22T10:00:09.000+00:00  roll           web: roll done",
        "2026-11-22T10:01:00.000+00:00  held           api held",
    ]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["web"], [0, 1]),
        (["web:*"], [0, 1]),
        (["web:web-0"], [0]),
        (["api"], [2]),
        (["all"], [0, 1, 2]),
        (["web:web-0", "api"], [0, 2]),
    ],
)
def test_history_of_names(names: list[str], found: list[int]) -> None:
    code, screen = run(Desk(lambda _, __: None, history=kept(ENTRIES)), "history", "--json", *names)
    assert code == 0
    assert json.loads(screen.out.getvalue()) == {"entries": [ENTRIES[index] for index in found]}


@pytest.mark.parametrize("names", [["nix"], ["web", "nix"], ["nix:*"], ["web:nix"]])
def test_history_of_a_name_that_nobody_knows_is_2(names: list[str]) -> None:
    for board in (page(program("shop")), Note(), None):
        code, screen = run(Desk(lambda _, __, board=board: board, history=kept(ENTRIES)), "history", *names)
        assert (code, screen.lines) == (2, [])
        here = "api, shop, web" if isinstance(board, dict) else "api, web"
        typed = next(name for name in names if "nix" in name)
        assert screen.notes == (
            f"supervisor-uvicorn history: {typed}: no such uvicorn worker or program (programs here: {here})\n"
        )


@pytest.mark.parametrize("name", ["shop", "shop:", "shop:*", "shop:shop-1", "all", "empty:*"])
def test_history_of_a_name_that_only_the_page_knows_is_empty(name: str) -> None:
    desk = Desk(lambda _, __: page(program("shop"), program("empty", [])), history=kept([]))
    code, screen = run(desk, "history", name)
    assert (code, screen.lines, screen.notes) == (0, [], f"nothing has been done yet to {name}\n")


def test_an_empty_history() -> None:
    for cell in (kept([]), Note()):
        desk = Desk(lambda _, __: page(program()), history=cell)
        code, screen = run(desk, "history")
        assert (code, screen.lines) == (0, [])
        assert screen.notes == "nothing has been done yet\n"
        code, screen = run(desk, "history", "--json", "web")
        assert json.loads(screen.out.getvalue()) == {"entries": []}
    assert run(Desk(lambda _, __: Note(), history=Note()), "history")[0] == 2, "nobody has ever reported"
    code, screen = run(Desk(lambda _, __: None, history=None), "history")
    assert code == 2
    assert "[rpcinterface:uvicorn]" in screen.notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "what is kept as the history is no JSON"),
        ("[" * 5000, "nested too deep"),
        ("[]", "is no history of a supervisor-uvicorn listener"),
        ('{"entries": []}', "is no history of a supervisor-uvicorn listener"),
        ('{"version": "2", "entries": []}', "is no history of a supervisor-uvicorn listener"),
        ('{"version": true, "entries": []}', "is no history of a supervisor-uvicorn listener"),
        ('{"version": 9, "entries": []}', "is of version 9, and this supervisor-uvicorn reads 1"),
        ('{"version": 1, "entries": 1}', "entries is 1, not a list"),
        ('{"version": 1, "entries": [7]}', "entries[0] is 7, not an object"),
        ('{"version": 1, "entries": [{}, {"event": [1]}]}', "entries[1].event is [1], not a text"),
        ('{"version": 1, "entries": [{"worker": 3}]}', "entries[0].worker is 3, not a text or null"),
    ],
)
def test_a_history_that_is_none_is_2(text: str, said: str) -> None:
    for words in (["history"], ["history", "--json"], ["history", "web"]):
        code, screen = run(Desk(lambda _, __: page(program()), history=Note(text, 1.0)), *words)
        assert (code, screen.lines) == (2, [])
        assert said in screen.notes
        assert screen.notes.count("\n") == 1


# -- what the guide says of all this


def in_the_guide() -> list[str]:
    """The words under "When there is no answer"; what changes from case to case is ``...`` there."""
    guide = (Path(__file__).parents[2] / "docs" / "operating.rst").read_text()
    section = guide.partition("When there is no answer\n")[2].partition("What survives what\n")[0]
    return [line.strip("`") for line in section.splitlines() if line.startswith("``")]


def test_the_guide_has_the_words_that_a_verb_says() -> None:
    known = [Listener("h:h", State.RUNNING)]
    late = operations.carry_out(Request("i", "pause"), Ledger(), {}, [], 0.0, lambda _: Settings(), age_s=60.0).reply
    boards: list[Any] = [
        None,
        Note(),
        note(page(program()), 61.0),
        page(program()),
        page(program(), answers=[late.answer()]),
        Note("{}", 1.0),
        Note('{"version": 1, "programs": 3}', 1.0),
        Unauthorized("http://h:9001 wants a user name"),
    ]
    said = []
    for board in boards:
        desk = Desk(lambda _, asked, board=board: _answered(board, asked), listeners=known)
        code, screen = run(desk, "pause")
        assert code == 2
        said.append(screen.notes)
    for out in (open("/dev/full", "w"), None):  # noqa: SIM115 - it cannot be closed without an error
        with pytest.raises(Unwritable) as refused:
            Console.of(out).say("x")
        said.append(str(refused.value))
        if out is not None:
            silence(out)
            out.close()
    guide = in_the_guide()
    assert len(guide) == len(said)
    for words in guide:
        pattern = ".+".join(map(re.escape, words.split("...")))
        assert [one for one in said if re.search(pattern, one)], f"nothing says {words!r}"


def _answered(board: Any, asked: Request | None) -> Any:
    if not isinstance(board, dict) or asked is None:
        return board
    return {**board, "answers": [{**answer, "id": asked.ident} for answer in board["answers"]]}


# -- the command line


@pytest.mark.parametrize(
    "words", [["restart"], ["restart", "--timeout", "x", "web"], ["pause", "--for", "0"], ["status", "--js"]]
)
def test_wrong_use_is_2_with_the_usage_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: supervisor-uvicorn " in capsys.readouterr().err


def test_interrupted_the_roll_goes_on() -> None:
    board = page(program(roll=roll("x", turn("web:web-0"))))
    desk = Desk(lambda since_s, request: board if request is None else KeyboardInterrupt())
    code, screen = run(desk, "restart", "web", live=True)
    assert (code, screen.notes) == (1, "the roll goes on: supervisor-uvicorn status\n")
    assert run(desk, "pause", "web")[0] == 130
    code, screen = run(Desk(lambda _, __: KeyboardInterrupt()), "restart", "web")
    assert (code, screen.notes) == (130, ""), "nothing was asked, so nothing goes on"


def test_a_pipe_that_nobody_reads_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    out = open(writing, "w")  # noqa: SIM115 - closed below, and that is the point
    desk = showing(page(program()))
    screen = Screen(desk)
    screen.console.out = out
    assert command.carry_out(cli.parser().parse_args(["status"]), desk, screen.console) == 1
    out.close()  # what it still holds goes nowhere, without a word
    assert capfd.readouterr().err == ""


def test_a_stream_that_takes_nothing_is_one_line_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    entry = "; the listener was asked all the same, and goes on"
    board = page(program(), answers=[yes("i")])
    for words, more in ((["status"], ""), (["history"], ""), (["pause"], entry), (["resume"], entry)):
        full = open("/dev/full", "w")  # noqa: SIM115 - closed below, and that is the point
        desk = answering(board, True, "so be it")
        desk._history = kept(ENTRIES)
        screen = Screen(desk)
        screen.console.out = full
        assert command.carry_out(cli.parser().parse_args(words), desk, screen.console) == 2
        said = f"supervisor-uvicorn {words[0]}: cannot write to standard output: No space left on device{more}\n"
        assert screen.notes == said
        full.close()
    assert capfd.readouterr().err == ""


def test_a_line_that_was_being_rewritten_does_not_hide_why() -> None:
    class Fills(io.StringIO):
        def write(self, text: str) -> int:
            if "[" in self.getvalue():
                raise OSError(28, "No space left on device")
            return super().write(text)

    def shows(ident: str) -> dict[str, Any]:
        return page(program(roll=roll(ident, turn("web:web-0"))), answers=[yes(ident)])

    desk = Desk(lambda _, asked: page(program()) if asked is None else shows(asked.ident))
    screen = Screen(desk, live=True)
    screen.console.out = Fills()
    assert command.carry_out(cli.parser().parse_args(["restart", "web"]), desk, screen.console) == 2
    assert screen.notes == (
        "supervisor-uvicorn restart: cannot write to standard output: No space left on device; "
        "the listener was asked all the same, and goes on\n"
    )


def test_neither_stream_takes_anything() -> None:
    desk = showing(page(program()))
    screen = Screen(desk)
    screen.out.close()
    screen.err.close()
    assert command.carry_out(cli.parser().parse_args(["status"]), desk, screen.console) == 2


def test_without_a_standard_output_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    for verb in (["status"], ["restart", "web"], ["history"]):
        assert cli.main([*verb, "-s", "unix:///not/there.sock"]) == 2
        assert capsys.readouterr().err == (
            f"supervisor-uvicorn {verb[0]}: there is no standard output to write to (descriptor 1 is closed)\n"
        )


def test_what_the_listener_could_not_take_is_not_sent() -> None:
    desk = answering(page(program()), True, "")
    for names, said in ((["x" * 513], "a NAME is 'xxx"), (["web"] * 1001, "at most 1000 NAMEs")):
        code, screen = run(desk, "restart", *names)
        assert (code, screen.lines) == (2, [])
        assert said in screen.notes
        assert screen.notes.endswith("Nothing was asked of the listener\n")
    assert desk.sent == []


def test_a_name_that_the_terminal_cannot_show_is_escaped() -> None:
    desk = showing(page(program(workers=[worker("wéb:wéb-0")])))
    raw = io.BytesIO()
    screen = Screen(desk)
    screen.console.out = io.TextIOWrapper(raw, encoding="ascii")
    assert command.carry_out(cli.parser().parse_args(["status"]), desk, screen.console) == 0
    assert b"w\\xe9b:w\\xe9b-0" in raw.getvalue()
