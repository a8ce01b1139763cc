"""``restart``: asks for a rolling restart and follows it. The listener carries it out, whatever becomes of this."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verbs.asking import ANSWER_S, POLL_S, Desk, NoNews, Poll, answer, send
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.page import Page
from supervisor_uvicorn.verbs.progress import Roll, bar, changes, counts, ending


def restart(names: Sequence[str], timeout_s: float | None, ident: str, desk: Desk, console: Console) -> int:
    """0: done; 1: stopped, or still rolling after ``timeout_s``. ``ident`` is new for each request.

    Raises :class:`NoNews` where it is refused or nobody answers, and where the listener stays away in the middle;
    :class:`RpcError` where nothing could be asked. Without ``timeout_s`` it ends when the roll ends: the listener
    bounds each step of one (rollout.py), and a listener that is gone is waited for ``PATIENCE_S`` only.
    """
    send(desk, console, Request(ident, "restart", tuple(names)))
    try:
        return _follow(ident, timeout_s, Poll(desk, console), console)
    except KeyboardInterrupt:
        console.note(f"the roll goes on: {console.command} status")
        return 1


def _follow(ident: str, timeout_s: float | None, poll: Poll, console: Console) -> int:
    began = console.clock()
    yes = answer(poll, console, ident)
    if yes.get("detail"):
        console.say(one_line(str(yes["detail"])))
    following = _Following(ident, console)
    while True:
        page = poll.look()
        if page is not None:
            following.see(page, poll.troubled)
        if following.over:
            return 1 if following.badly else 0
        if timeout_s is not None and console.clock() - began >= timeout_s:
            following.give_up(timeout_s)
            return 1
        console.sleep(POLL_S)


class _Following:
    """The rolls of one request, and what was said of them."""

    def __init__(self, ident: str, console: Console) -> None:
        self._ident = ident
        self._console = console
        self._rolls: dict[str, Roll] = {}  # program -> as last seen
        self._ended: set[str] = set()
        self._missing_since: float | None = None  # a fresh page does not show what should be there
        self.badly = False

    @property
    def over(self) -> bool:
        return bool(self._rolls) and self._ended == self._rolls.keys()

    def see(self, page: Page, troubled: bool) -> None:
        found = {program: roll for program, roll in page.rolls() if self._ident in roll["asked"]}
        for program, roll in found.items():
            if program not in self._ended:
                self._tell(program, roll)
        missing = sorted(self._rolls.keys() - self._ended - found.keys())
        if troubled or (self._rolls and not missing):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = self._console.clock()
        elif self._console.clock() - self._missing_since >= ANSWER_S:
            self._lose(missing)
        rolling = [bar(program, roll) for program, roll in self._rolls.items() if program not in self._ended]
        if rolling:
            self._console.show("  ".join(rolling))

    def _tell(self, program: str, roll: Roll) -> None:
        if not self._console.live:
            for line in changes(program, self._rolls.get(program), roll):
                self._console.say(line)
        self._rolls[program] = roll
        if roll["state"] == "rolling":
            return
        self._ended.add(program)
        self.badly = self.badly or roll["state"] != "done"
        self._console.say(ending(program, roll))

    def _lose(self, missing: Sequence[str]) -> None:
        """A listener that reports shows no such roll: it has lost its memory, or another roll has come since."""
        if not self._rolls:
            raise NoNews("the listener has accepted it, and shows no roll: see its stderr log, and `history`")
        for program in missing:
            self._ended.add(program)
            self.badly = True
            self._say(
                f"{program}: the listener no longer shows this roll, so how it ended is not known; "
                f"see {self._console.command} history {program}"
            )

    def give_up(self, timeout_s: float) -> None:
        for program in self._rolls.keys() - self._ended:
            over, every = counts(self._rolls[program])
            self._say(
                f"{program}: still rolling after {timeout_s:g} s, {over} of {every} done. It goes on: "
                f"{self._console.command} status"
            )
        if not self._rolls:
            self._console.say(f"accepted {timeout_s:g} s ago and not begun. It goes on: {self._console.command} status")

    def _say(self, line: str) -> None:
        self._console.say(one_line(line))
