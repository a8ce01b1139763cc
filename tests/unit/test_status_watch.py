"""``status --watch`` in a terminal: what is painted when, against a scripted board."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from verbs_desk import Desk, note, page, program, worker

from supervisor_uvicorn import cli
from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs import command
from supervisor_uvicorn.verbs.asking import Listener
from supervisor_uvicorn.verbs.console import ENTER, ERASE_BELOW, ERASE_LINE, HOME, LEAVE, Console
from supervisor_uvicorn.verbs.live import WORDS_S


class Watched(Desk):
    """Gives one of ``boards`` at each look, then a Ctrl-C. Counts the calls of supervisord."""

    def __init__(self, *boards: Any) -> None:
        self.boards = list(boards)
        self.calls: list[str] = []
        self.kept_text = ""
        super().__init__(lambda _, __: self.boards.pop(0) if self.boards else KeyboardInterrupt())

    def read(self) -> Note | None:
        self.calls.append("board")
        return super().read()

    def kept(self, key: str) -> Note | None:
        self.calls.append(key)
        return Note(self.kept_text, 0.5, 1.0)

    def listeners(self) -> Sequence[Listener]:
        self.calls.append("listeners")
        return [Listener("health", State.STOPPED, "/log")]


class Painted(Console):
    """A terminal of 100 x 24 whose pictures can be read."""

    def __init__(self, desk: Desk, out: io.StringIO | io.TextIOWrapper | None = None, **more: Any) -> None:
        self.columns, self.lines = 100, 24
        self.at_sleep: Callable[[float], None] = lambda _: None

        def sleep(seconds: float) -> None:
            desk.now += seconds
            self.at_sleep(desk.now)

        values: dict[str, Any] = {"live": True, "clock": lambda: desk.now, "sleep": sleep, **more}
        super().__init__(out or io.StringIO(), io.StringIO(), size=lambda: (self.columns, self.lines), **values)

    @property
    def text(self) -> str:
        assert isinstance(self.out, io.StringIO)
        return self.out.getvalue()

    @property
    def pictures(self) -> list[list[str]]:
        """The lines of each picture, in order."""
        parts = self.text.split(HOME)[1:]
        assert all(ERASE_BELOW in part for part in parts)
        return [part.partition(ERASE_BELOW)[0].replace(ERASE_LINE, "").split("\n") for part in parts]


def run(desk: Desk, console: Console, *names: str) -> int:
    return command.carry_out(cli.parser().parse_args(["status", "--watch", *names]), desk, console)


def at(body: dict[str, Any], when: float, age_s: float = 0.5) -> Note:
    """The report that was made at ``when``."""
    return Note(note(body).text, age_s, when)


SICK = program(workers=[worker(verdict="failing", reason="status 500")])


def test_a_picture_a_second_in_place_and_the_terminal_as_it_was() -> None:
    desk = Watched(page(program()), page(SICK))
    console = Painted(desk)
    began = desk.now
    assert run(desk, console) == 1, "of the last look"
    first, second = console.pictures
    assert desk.now - began == pytest.approx(2.0)
    assert first[0].partition("  ")[2] == "2 of 2 healthy  reported 0.5 s ago by pid 5"
    assert [line.split()[0] for line in first[1:]] == ["NAME", "web", "web:web-0", "web:web-1"]
    assert [line.split()[0] for line in second[1:]] == ["NAME", "web", "web:web-0", "status"]
    assert console.text.startswith(ENTER)
    assert console.text.count(ENTER) == console.text.count(LEAVE) == 1
    end = console.text.partition(LEAVE)[2]
    assert end.splitlines() == second, "what was seen last is still there to be read"
    assert console.err.getvalue() == ""  # type: ignore[attr-defined]


def test_a_resize_is_followed_at_once_and_costs_no_look() -> None:
    desk = Watched(page(program()))
    console = Painted(desk)
    began = desk.now

    def resize(now: float) -> None:
        if now - began > 0.25:
            console.columns, console.lines = 41, 3

    console.at_sleep = resize
    run(desk, console)
    assert desk.calls == ["board", "board"], "the second one is Ctrl-C"
    first, second = console.pictures
    assert (len(first), len(second)) == (5, 3)
    assert max(map(len, second)) <= 40


def test_a_trend_has_a_mark_for_each_report_not_for_each_look() -> None:
    slow = program(workers=[worker(lag_s=0.5), worker("web:web-1", 12)])
    desk = Watched(at(page(program()), 1.0), at(page(program()), 1.0, 1.5), at(page(slow), 6.0), at(page(SICK), 9.0))
    console = Painted(desk)
    run(desk, console)
    trends = [[line.split()[-1] for line in picture if line.startswith("web:")] for picture in console.pictures]
    assert trends == [[".", "."], [".", "."], [".#", ".."], [".#x"]]


@pytest.mark.parametrize(
    ("encoding", "term", "lowest"),
    [("utf-8", "xterm", "▁"), ("utf-8", "linux", "."), ("ascii", "xterm", "."), ("latin-1", "xterm", ".")],
)
def test_where_there_are_no_blocks_it_is_ascii(encoding: str, term: str, lowest: str) -> None:
    raw = io.BytesIO()
    odd = program(workers=[worker("web:\udcff-日"), worker(verdict="silent", reason="\udcff")])
    desk = Watched(page(odd))
    run(desk, Painted(desk, io.TextIOWrapper(raw, encoding), term=term))
    found = raw.getvalue().decode(encoding)
    row = next(line for line in found.splitlines() if line.startswith("web:"))
    assert row.replace(ERASE_LINE, "").endswith(f"  {lowest}")
    assert "web:\\udcff" in found
    assert found.count("    \\udcff") == 2, "in the picture, and in what stays"


def test_no_word_from_outside_controls_the_terminal() -> None:
    evil = "\x1b]0;x\x07\x1b[2J\r\n\x9b1m\u202e"
    odd = program(
        evil,
        [worker(f"{evil}:{evil}", verdict=evil, reason=evil, held=evil, over=evil, state=evil)],
        detail=evil,
        socket=evil,
    )
    desk = Watched(page(odd), page(odd, listener={"pid": evil, "reports_every_s": 5.0}), RpcError(evil))
    run(desk, console := Painted(desk))
    rest = console.text
    for known in (ENTER, LEAVE, HOME, ERASE_LINE, ERASE_BELOW, "\n"):
        rest = rest.replace(known, "")
    assert rest.isprintable()


def test_one_look_is_one_call_and_the_history_is_asked_for_when_somebody_was_restarted() -> None:
    desk = Watched(*[page(program())] * 5)
    run(desk, Painted(desk))
    assert desk.calls == ["board"] * 6
    restarted = program(workers=[worker(restarts=1)])
    desk = Watched(*[at(page(restarted), 1_700_000_000.0, 10.0)] * 4)
    desk.kept_text = (
        '{"version": 1, "restarts": {"web:web-0": 1}, "entries": [{"event": "restart", "worker": "web:web-0",'
        ' "reason": "silent", "time": "2023-11-14T22:08:20+00:00"}]}'
    )
    run(desk, console := Painted(desk))
    assert desk.calls == ["board", "history", "board", "board", "board", "board"]
    assert "silent 5m ago" in console.pictures[-1][3], "by supervisord's own clock"


def test_trouble_is_told_in_the_picture_and_it_goes_on() -> None:
    stale = at(page(program()), 1.0, 20.0)
    desk = Watched(*[stale] * 8, RpcError("gone for a moment"), None, None, Note(), Note(), page(program()))
    run(desk, console := Painted(desk))
    pictures = ["\n".join(picture) for picture in console.pictures]
    assert all("has not reported for 20 s" in one and "health is STOPPED" in one for one in pictures[:8])
    assert all("web:web-0" in one for one in pictures[:8]), "the last known table"
    assert desk.calls[:9].count("listeners") == 8 // WORDS_S + 1, "its words cost calls"
    assert "gone for a moment" in pictures[8]
    assert "no news" in pictures[8]
    assert "[rpcinterface:uvicorn]" in pictures[9]
    assert "no listener has reported since" in pictures[10]
    assert "2 of 2 healthy" in pictures[11]
    assert console.err.getvalue() == "", "a terminal has one picture"  # type: ignore[attr-defined]
    for board in (stale, RpcError("gone"), None):
        desk = Watched(board, *([None] if board is None else []))
        assert run(desk, Painted(desk)) == 2


def test_a_name_that_means_nobody_ends_it_and_leaves_the_terminal() -> None:
    desk = Watched(page(program()))
    console = Painted(desk)
    assert run(desk, console, "wob") == 2
    assert (console.text, "wob" in console.err.getvalue()) == ("", True)  # type: ignore[attr-defined]
    desk = Watched(page(program()), page(program("api")))
    console = Painted(desk)
    assert run(desk, console, "web") == 2
    assert console.text.endswith(LEAVE)


def test_a_terminal_that_is_gone_ends_it() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    desk = Watched(page(program()))
    assert run(desk, Painted(desk, Gone())) == 2


@pytest.mark.parametrize(("live", "term"), [(False, "xterm"), (True, "dumb")])
def test_elsewhere_a_table_a_second(live: bool, term: str) -> None:
    desk = Watched(page(program()), page(program()))
    console = Painted(desk, live=live, term=term)
    assert run(desk, console) == 0
    assert console.text.isascii()
    assert "\x1b" not in console.text
    assert console.text.count("NAME") == 2


def test_a_term_leaves_the_terminal_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGTSTP)
    desk = Watched(page(program()))
    console = Painted(desk)
    console.at_sleep = lambda _: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run(desk, console)
    assert end.value.code == 128 + signal.SIGTERM
    assert console.text.endswith(LEAVE)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGTSTP)) == before


def test_what_a_page_says_in_the_wrong_way_is_refused_with_words() -> None:
    for key, value in (("rss_bytes", "x"), ("age_s", []), ("over", 7), ("fds", 1.5)):
        odd = page(program(workers=[worker(**{key: value})]))
        desk = Watched(odd)
        assert run(desk, console := Painted(desk)) == 2
        assert f"web:web-0.{key} is" in "\n".join(console.pictures[0])
        desk = Watched(odd)
        plain = Painted(desk, live=False)
        assert command.carry_out(cli.parser().parse_args(["status"]), desk, plain) == 2
        assert f"web:web-0.{key} is" in plain.err.getvalue()  # type: ignore[attr-defined]
