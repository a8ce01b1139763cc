"""A look with settings that were read again: which answers are heard, and which connections are let go of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from supervisor_uvicorn import watch as watch_module
from supervisor_uvicorn.kernel import proc, selftest
from supervisor_uvicorn.kernel.errors import Exhausted
from supervisor_uvicorn.kernel.selftest import Lack
from supervisor_uvicorn.model import Address, Answer, HttpOutcome, Member, State, WorkerId
from supervisor_uvicorn.operations import Reply
from supervisor_uvicorn.probe.target import HEAD_LIMIT, LIMIT_CONCURRENCY, Sight, Target
from supervisor_uvicorn.report import events
from supervisor_uvicorn.settings import ListenSettings, Settings
from supervisor_uvicorn.supervisord.request import MOST_AGE_S, Request
from supervisor_uvicorn.watch import LOOKS_BEFORE_SLIPS, REFUSED_AGAIN_LOOKS, Snapshot, Watch

OLD, NEW = Settings(path="/old"), Settings(path="/new")
ME = WorkerId("web:web-0", os.getpid(), proc.born(os.getpid()))
MEMBER = Member("web:web-0", State.RUNNING, ME.pid, ME.born, socket=Address("tcp", "127.0.0.1", 80), socket_inode=1)


class Pins:
    """What a look is shown; and what it asks for: the targets of each look, and who was let go of before it."""

    def __init__(self) -> None:
        self.sight = Sight(True, lag_s=0.001)
        self.unread = False
        self.looks: list[tuple[list[Target], list[WorkerId]]] = []
        self._let_go: list[WorkerId] = []

    def look(self, targets: Sequence[Target], **_: Any) -> dict[WorkerId, Sight]:
        self.looks.append((list(targets), self._let_go))
        self._let_go = []
        return {target.worker: self.sight for target in targets}

    def let_go(self, worker: WorkerId) -> None:
        self._let_go.append(worker)

    def is_unread(self, worker: WorkerId | None) -> bool:
        return self.unread


class Site:
    def __init__(self, settings: Settings = OLD, **more: Any) -> None:
        self.pins = Pins()
        self.asked: list[str] = []
        self.watch = Watch(ListenSettings(general=settings, **more), self.pins, reload=self.asked.append)  # type: ignore[arg-type]
        self.watch._serving = lambda worker, member: True  # type: ignore[method-assign]  # this process does not
        self.now = 1000.0

    def look(self, members: Sequence[Member] = (MEMBER,), full: bool = False) -> list[events.Event]:
        self.now += 1.0
        return self.watch.look(self.now, Snapshot(tuple(members), self.now), full=full, due_s=1.0)[1]

    def renew(self, settings: Settings, **more: Any) -> None:
        self.watch.renew(ListenSettings(general=settings, **more))

    @property
    def asked_for(self) -> list[str | None]:
        """The path of each target of the last look."""
        return [target.request.path if target.request else None for target in self.pins.looks[-1][0]]

    @property
    def let_go(self) -> list[WorkerId]:
        return self.pins.looks[-1][1]

    @property
    def http(self) -> HttpOutcome | None:
        return self.watch.ledger.programs["web"].workers["web:web-0"].http


RIGHT = HttpOutcome(Answer.RIGHT, status=200)


def answered(http: HttpOutcome | None = RIGHT) -> Sight:
    return Sight(True, lag_s=0.001, http=http)


def test_its_connection_is_let_go_of_once_and_what_was_answered_is_forgotten() -> None:
    site = Site()
    site.pins.sight = answered()
    site.look()
    assert site.http == RIGHT
    site.renew(NEW)
    assert site.http is None
    site.pins.sight = answered(None)
    site.look()
    assert (site.asked_for, site.let_go) == (["/new"], [ME])
    assert site.pins.looks[-1][0][0].eager, "the first question does not wait for a TICK"
    site.look()
    assert (site.asked_for, site.let_go) == (["/new"], [])


@pytest.mark.parametrize("changed", [Settings(path="/old", host="x"), Settings(path="/old", timeout_s=1.0), Settings()])
def test_whatever_changes_of_the_question(changed: Settings) -> None:
    site = Site()
    site.look()
    site.renew(changed)
    site.look()
    assert (site.asked_for, site.let_go) == ([changed.path], [ME])


def test_what_is_no_question_leaves_the_connections() -> None:
    site = Site()
    site.pins.sight = answered()
    site.look()
    site.renew(Settings(path="/old", silent_after_s=5))
    site.look()
    assert (site.asked_for, site.let_go, site.http) == (["/old"], [], RIGHT)


def test_while_a_pulse_is_unread_its_connection_stays_and_its_answer_is_not_heard() -> None:
    site = Site()
    site.look()
    site.pins.unread = True
    site.renew(NEW)
    site.pins.sight = Sight(True, unread_since=site.now, lag_s=1.0, http=RIGHT)
    site.look()
    site.look()
    assert (site.asked_for, site.let_go, site.http) == (["/old"], [], None)
    past = site.watch.ledger.programs["web"].workers["web:web-0"]
    assert past.unread_since is not None
    site.pins.unread, site.pins.sight = False, answered(None)
    site.look()
    assert (site.asked_for, site.let_go) == (["/new"], [ME])


def test_one_without_a_connection_is_left_out_of_one_look() -> None:
    """It may owe us an answer to the old question, which Pins keeps as long as it is a target (pins.py)."""
    site = Site()
    site.pins.sight = Sight()
    site.look()
    site.renew(NEW)
    site.look()
    assert site.asked_for == []
    site.look()
    assert site.asked_for == ["/new"]


def test_a_shorter_path_may_be_pinned_again() -> None:
    site = Site()
    site.pins.sight = Sight(trouble=HEAD_LIMIT, pinnable=False)
    site.look()
    site.look()
    assert site.asked_for == [], "its path was too long for the worker's limit"
    site.renew(NEW)
    site.look()
    site.pins.sight = answered(None)
    site.look()
    assert site.asked_for == ["/new"]


def test_slips_of_the_pen_in_what_was_read_again_are_said_after_some_ticks() -> None:
    site = Site(Settings())
    for _ in range(LOOKS_BEFORE_SLIPS):
        site.look(full=True)
    slip = {"wob": Settings()}
    site.renew(Settings(), by_group=slip, groups=("wob",))
    said = [site.look(full=True) for _ in range(LOOKS_BEFORE_SLIPS)]
    of_them = [[event.message for event in told if isinstance(event, events.Error)] for told in said]
    assert of_them[:-1] == [[]] * (LOOKS_BEFORE_SLIPS - 1), "the roster may not know of a new program yet"
    assert any("[supervisor-uvicorn:wob] is for a program that is not here" in words for words in of_them[-1])
    assert any("--group names wob" in words for words in of_them[-1])


def test_a_request_to_reload_is_handed_on_once_it_is_fresh() -> None:
    site = Site()
    fresh, late = Request("a", "reload", sent_at=100.0), Request("b", "reload", sent_at=100.0 - MOST_AGE_S - 1)
    for request in (fresh, late):
        assert site.watch.ask(request.text(), Snapshot((MEMBER,), 1.0), 1.0, 100.0) == []
    assert site.asked == ["a"]
    (reply,) = site.watch.replies
    assert (reply.ident, reply.accepted) == ("b", False)
    assert "whoever asked has given up" in reply.detail
    site.watch.reply(Reply("a", "reload", True, "nothing has changed"))
    site.watch.ask(fresh.text(), Snapshot((MEMBER,), 1.0), 1.0, 100.0)
    assert site.asked == ["a"], "it was answered: an event can come twice"


def test_that_no_descriptor_is_left_is_said_once_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()

    def said() -> list[str]:
        return [event.message for event in site.look(full=True) if isinstance(event, events.Error)]

    def exhausted(pid: int) -> int:
        raise Exhausted("/proc/1/stat: Too many open files")

    assert said() == []
    with monkeypatch.context() as patched:
        patched.setattr(selftest.proc, "born", exhausted)
        (words,) = said()
        assert "Too many open files" in words
        assert "minfds=" in words
        assert said() == []
    assert said() == []
    with monkeypatch.context() as patched:
        patched.setattr(selftest.proc, "born", exhausted)
        assert len(said()) == 1


# -- who was refused -------------------------------------------------------------------------------------------------


def test_who_was_refused_is_tried_again_and_told_once() -> None:
    site = Site()
    site.pins.sight = Sight(pinnable=False, trouble="refused by the kernel")
    told = [event for _ in range(3 * REFUSED_AGAIN_LOOKS) for event in site.look(full=True)]
    assert len([event for event in told if event.kind == "error"]) == 1
    asked = [bool(targets) for targets, _ in site.pins.looks]
    assert asked.count(True) == 4, asked  # at first, and once for each twelve TICKs
    site.pins.sight = Sight(True, lag_s=0.001)
    for _ in range(REFUSED_AGAIN_LOOKS):
        site.look(full=True)
    assert site.watch.ledger.programs["web"].workers["web:web-0"].pinned
    site.pins.sight = Sight(pinnable=False, trouble="refused by the kernel")
    assert "error" in [event.kind for event in site.look(full=True)], "another series"


def test_whose_descriptors_can_be_read_again_is_tried_at_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    lack = Lack("uid 1 may not read", "another user")
    monkeypatch.setattr(watch_module, "why_unreadable", lambda pid: lack)
    site.pins.sight = Sight(pinnable=False, trouble="refused by the kernel")
    for _ in range(4):
        site.look(full=True)
    assert [bool(targets) for targets, _ in site.pins.looks] == [True, False, False, False]
    monkeypatch.setattr(watch_module, "why_unreadable", lambda pid: None)
    site.look()
    assert not site.pins.looks[-1][0], "not before a TICK"
    site.pins.sight = Sight(True, lag_s=0.001)
    site.look(full=True)
    assert site.pins.looks[-1][0]
    assert site.watch.ledger.programs["web"].workers["web:web-0"].pinned


def test_what_was_chosen_is_not_tried_again() -> None:
    site = Site()
    site.pins.sight = Sight(pinnable=False, trouble=LIMIT_CONCURRENCY)
    for _ in range(3 * REFUSED_AGAIN_LOOKS):
        site.look(full=True)
    assert [bool(targets) for targets, _ in site.pins.looks].count(True) == 1
