"""The event listener: with threads.py the only place with threads and clocks.

Four threads, so that nothing that can wait holds up a look:

    events   (main) reads stdin, answers OK at once, and wakes the others
    roster   asks supervisord who should be there, and the kernel what they are
    look     pulses, probes, decides; never waits for anybody
    remedy   carries out what was decided, step by step

and a few short-lived ones for HTTP probes. They hand each other frozen values through :class:`_Board` and nothing
else. A thread that fails in a way nobody thought of ends the process: supervisord starts it anew, and what was under
way is written down (intentions.py).
"""

from __future__ import annotations

import argparse
import datetime
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from . import remedy
from .intentions import Intention, Intentions
from .kernel import proc
from .kernel.errors import KernelError
from .kernel.selftest import self_test
from .kernel.sock_diag import SockDiag
from .ledger import Ours, Outcome, Reason, Remedy, Restart, Start
from .model import Member, State
from .policy import adopt
from .probe.pins import Pins
from .report import events
from .report.log import Log
from .roster import Roster
from .settings import ListenSettings, Settings, SettingsError, load
from .supervisord.calls import ProcessConfig, Supervisord
from .supervisord.channel import Channel
from .supervisord.lock import Lock
from .supervisord.preflight import explain_absence, explain_failure
from .supervisord.rpc import SHUTDOWN_STATE, BadAnswer, Fault, Rpc, RpcError, Unauthorized
from .supervisord.vigil import NO_TICK_S, Sign, Vigil
from .threads import Crew, guarded
from .watch import Snapshot, Watch

UNSETTLED_S = 1.0  # between two rosters while somebody's listening socket is not known yet
ROSTER_S = 60.0  # without any event: TICK_60 is the longest period that serves
CONFIGS_S = 60.0  # stopwaitsecs and killasgroup may change by `update` without a change of names
STANDBY_S = 2.0
EVENTS_S = 5.0  # without an event, until it is asked whether one should have come; TICK_5 is the shortest period
PROBE_THREADS = 32

NO_TICK = (
    f"no TICK event has come in {NO_TICK_S:g} s, so no HTTP probe is made and the roster is read seldom: "
    "write events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION in the [eventlistener:...] section"
)
GIVEN_UP = (
    "no event comes any more although supervisord answers: it has given this listener up (state UNKNOWN, as a stray "
    "byte on its stdout brings about); leaving, so that it is started anew"
)


@dataclass
class _Board:
    """What the threads know of each other; every field is changed under the condition."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    snapshot: Snapshot = field(default_factory=Snapshot)
    tick: bool = False
    news: bool = False  # the roster has changed: somebody may have to be pinned
    roster_wanted: bool = True
    outcomes: list[Outcome] = field(default_factory=list)
    stopping: bool = False  # supervisord has said so itself

    def put(self, **changes: object) -> None:
        with self.changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def put_roster(self, members: tuple[Member, ...], at: float) -> None:
        with self.changed:
            self.news = self.news or members != self.snapshot.members
            self.snapshot = Snapshot(members, at)
            self.changed.notify_all()

    def add_outcome(self, outcome: Outcome) -> None:
        with self.changed:
            self.outcomes.append(outcome)
            self.roster_wanted = True
            self.changed.notify_all()


class Listener:
    """One listener of one supervisord."""

    def __init__(self, settings: ListenSettings, env: Mapping[str, str], tell: Callable[[events.Event], None]) -> None:
        self._settings = settings
        self._env = env
        self._tell = tell
        self._board = _Board()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._remedies: list[tuple[float, remedy.Steps]] = []
        self._clock = time.monotonic
        self._told: set[str] = set()
        with Rpc.from_environment(env) as rpc:
            pid = _until_reachable(Supervisord(rpc), tell)
        born = _born(pid)
        self._lock = Lock(pid, born)
        self._intentions = Intentions.of_supervisord(pid, born)
        self._intentions_trouble = ""  # as last told
        self._held_starts: dict[str, str] = {}  # of the remedy thread

    # -- events -----------------------------------------------------------------------------------------------------

    def run(self, channel: Channel) -> int:
        """Until the end of input (0), or until supervisord has given this listener up (1)."""
        threading.Thread(target=guarded, args=(self._act,), daemon=True, name="act").start()
        channel.ready()
        vigil = Vigil(self._clock())
        last_serial: int | None = None
        well = True  # the last of what came was an event
        while True:
            found = channel.wait(EVENTS_S)
            if found is None:
                return 0
            malformed, channel.reader.malformed = channel.reader.malformed, 0
            if malformed and well:  # once a series
                self._tell(events.Error("", "a header line on stdin was no event; skipped, and so are the next ones"))
            well = bool(found) or (well and not malformed)
            for event in found:
                tick = vigil.heard(self._clock(), event.name)
                # supervisord sends a rejected event again, also to listeners that did not reject it
                if event.serial is None or event.serial != last_serial:
                    self._hear(event.name, tick)
                last_serial = event.serial
            sign = vigil.sign(self._clock())
            if sign is Sign.ASK:
                vigil.answered_at = self._answers_at()
            elif sign is Sign.NO_TICK:
                self._tell_once(NO_TICK)
            elif sign is Sign.GIVEN_UP:
                self._tell(events.Error("", GIVEN_UP, reason="given up"))
                return 1

    def _hear(self, event: str, tick: bool) -> None:
        if tick:
            self._board.put(tick=True, roster_wanted=True)
        elif event.startswith("PROCESS_STATE"):
            self._board.put(roster_wanted=True)
        elif event == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._board.put(stopping=True)

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(events.Error("", what))

    def _answers_at(self) -> float | None:
        """When supervisord answered just now; None: it does not, so that events are late for another reason."""
        try:
            with Rpc.from_environment(self._env) as rpc:
                Supervisord(rpc).state()
        except RpcError:
            return None
        return self._clock()

    # -- acting -----------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Stand by until the lock is ours, then look and act."""
        said = False
        while holder := self._lock.acquire():
            if not said:
                self._tell(events.Standby("", f"stands by: another listener of this supervisord acts ({holder})"))
                said = True
            time.sleep(STANDBY_S)
        if said:
            self._tell(events.Standby("", "acts from now on: the other listener has gone"))
        if self._lock.trouble:
            self._tell(events.Error("", f"acts without a lock: {self._lock.trouble}", reason="lock"))
        for lack in self_test():
            self._tell(events.Error("", str(lack), reason="self test"))
        for work, name in ((self._read_rosters, "roster"), (self._carry_out, "remedy")):
            threading.Thread(target=guarded, args=(work,), daemon=True, name=name).start()
        self._look()

    def _look(self) -> None:
        board = self._board
        diag = SockDiag()
        pins = Pins(diag, self._clock, Crew(PROBE_THREADS).submit)
        watch = Watch(self._settings, pins)
        snapshot = self._first_snapshot()
        found = self._left_over(snapshot)
        watch.ledger = adopt(watch.ledger, found)
        next_at = looked_at = self._clock()
        due_s = half_s = self._settings.pulse_s / 2  # being late by less is no gap in our clock
        ours = frozenset(found)
        while True:
            with board.changed:
                while (
                    not (board.tick or board.news or board.outcomes)
                    and (left_s := self._until(next_at, pins.recheck_at)) > 0
                ):
                    board.changed.wait(left_s)
                full, outcomes, snapshot = board.tick, board.outcomes, board.snapshot
                called = board.tick or board.news or bool(outcomes)
                board.tick, board.news, board.outcomes = False, False, []
                if board.stopping:
                    snapshot = replace(snapshot, shutting_down=True)
            now = self._clock()
            if not called and now < next_at:
                pins.recheck()
                due_s = watch.next_in_s(looked_at)
                next_at = looked_at + due_s
                continue
            decision, told = watch.look(now, snapshot, full=full, due_s=max(due_s, half_s), outcomes=outcomes)
            for event in told:
                self._tell(event)
            for order in decision.orders:
                self._give(order, snapshot)
            still_ours = frozenset(name for program in watch.ledger.programs.values() for name in program.ours)
            if still_ours != ours:
                gone, ours = ours - still_ours, still_ours
                if gone:
                    self._orders.put(lambda names=still_ours: self._intentions.keep_only(names))  # type: ignore[misc]
            looked_at, due_s = now, watch.next_in_s(now)
            next_at = now + due_s

    def _until(self, next_at: float, recheck_at: float | None) -> float:
        return (next_at if recheck_at is None else min(next_at, recheck_at)) - self._clock()

    def _first_snapshot(self) -> Snapshot:
        board = self._board
        with board.changed:
            while board.snapshot.at == 0.0:
                board.changed.wait()
            return board.snapshot

    # -- the roster -------------------------------------------------------------------------------------------------

    def _read_rosters(self) -> None:
        board = self._board
        roster = Roster(SockDiag(), self._settings.groups, self._intentions.load().values())
        rpc = Rpc.from_environment(self._env)
        supervisord = Supervisord(rpc)
        configs: Mapping[str, ProcessConfig] = {}
        configs_at = 0.0
        failed = ""
        while True:
            with board.changed:
                wait_s = UNSETTLED_S if roster.unsettled or failed else ROSTER_S
                if not board.roster_wanted:
                    board.changed.wait_for(lambda: board.roster_wanted, wait_s)
                board.roster_wanted = False
            at = self._clock()
            try:
                processes = supervisord.processes()
                if at - configs_at > CONFIGS_S or any(info.name not in configs for info in processes):
                    configs, configs_at = supervisord.configs(), at
                board.put_roster(roster.read(processes, configs), at)
                if failed:
                    self._tell(events.Error("", "supervisord answers again", reason="supervisord"))
                failed = ""
            except Fault as fault:
                if fault.code == SHUTDOWN_STATE:  # an operator's doing, and no error
                    board.put(snapshot=replace(board.snapshot, at=at, shutting_down=True))
                    failed = type(fault).__name__
                failed = self._tell_first(failed, fault)
            except (RpcError, KernelError) as error:
                failed = self._tell_first(failed, error)

    def _tell_first(self, failed: str, error: Exception) -> str:
        """Logged once a series (design, section 7)."""
        kind = type(error).__name__
        if failed != kind:
            self._tell(events.Error("", f"the roster cannot be read: {error}", reason="supervisord"))
        return kind

    # -- remedies ---------------------------------------------------------------------------------------------------

    def _give(self, order: Restart | Start, snapshot: Snapshot) -> None:
        members = {member.name: member for member in snapshot.members}
        if isinstance(order, Start):
            down = members[order.name]
            self._orders.put(lambda: remedy.start(order, down, self._tools(), self._held_starts))
            return
        member = members[order.worker.name]
        settings = self._settings.of(member.group)
        self._orders.put(lambda: self._begin(order, member, settings))

    def _begin(self, order: Restart, member: Member, settings: Settings, finish: bool = False) -> None:
        if not finish:
            self._intentions.put(Intention.of(order, member))
        self._tell_of_intentions("cannot be written")
        steps = remedy.carry_out(order, member, settings, self._tools(), finish=finish)
        self._remedies.append((self._clock(), steps))

    def _tell_of_intentions(self, what: str) -> None:
        trouble = self._intentions.trouble
        if trouble and trouble != self._intentions_trouble:
            lost = "what is under way is kept in memory alone, and a next listener would not finish it"
            self._tell(events.Error("", f"intentions {what}: {trouble}; {lost}", reason="intentions"))
        self._intentions_trouble = trouble

    def _tools(self) -> remedy.Tools:
        return remedy.Tools(self._supervisord, self._intentions, self._tell, self._clock)

    def _carry_out(self) -> None:
        """All remedies, a step of each at a time; between steps it waits for the next order."""
        self._supervisord = Supervisord(Rpc.from_environment(self._env))
        while True:
            next_at = min((at for at, _ in self._remedies), default=None)
            try:
                wait_s = None if next_at is None else max(0.0, next_at - self._clock())
                self._orders.get(timeout=wait_s)()
                continue
            except queue.Empty:
                pass
            now = self._clock()
            due = [entry for entry in self._remedies if entry[0] <= now]
            self._remedies = [entry for entry in self._remedies if entry[0] > now]
            for _, steps in due:
                try:
                    self._remedies.append((self._clock() + next(steps), steps))
                except StopIteration as end:
                    self._board.add_outcome(end.value)

    def _left_over(self, snapshot: Snapshot) -> dict[str, Ours]:
        """What an earlier listener had begun: finished where a signal was sent, judged anew where none was."""
        members = {member.name: member for member in snapshot.members}
        found: dict[str, Ours] = {}
        left = self._intentions.load()
        self._tell_of_intentions("cannot be read or written")
        for name, intention in left.items():
            member = members.get(name)
            if member is None:
                continue
            same = member.worker == intention.worker
            if same and not intention.signalled:
                continue
            if not same and member.state is State.STOPPED:
                continue
            reason, kind = Reason(intention.reason), Remedy(intention.remedy)
            under_way = same and member.state is State.RUNNING
            found[name] = Ours(intention.worker, self._clock(), reason, kind, intention.detail, under_way=under_way)
            if under_way:
                order = Restart(intention.worker, kind, reason, intention.detail)
                settings = self._settings.of(member.group)
                self._orders.put(lambda o=order, m=member, s=settings: self._begin(o, m, s, finish=True))  # type: ignore[misc]
        self._orders.put(lambda: self._intentions.keep_only(found))
        if found:
            names = ", ".join(sorted(found))
            self._tell(events.Takeover("", f"an earlier listener left remedies unfinished: {names}; taken over"))
        return found


def _until_reachable(supervisord: Supervisord, tell: Callable[[events.Event], None]) -> int:
    """supervisord's pid. What the operator must mend is raised; what passes is waited for."""
    said = False
    while True:
        try:
            return supervisord.pid()
        except (Unauthorized, BadAnswer):
            raise
        except Fault as fault:
            if fault.code != SHUTDOWN_STATE:
                raise
            error: RpcError = fault
        except RpcError as passing:
            error = passing
        if not said:
            tell(events.Error("", f"supervisord does not answer: {error}; trying again", reason="supervisord"))
            said = True
        time.sleep(UNSETTLED_S)


def _born(pid: int) -> int:
    try:
        return proc.born(pid)
    except KernelError:
        return 0


def main(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """The ``listen`` verb."""
    absent = explain_absence(env)
    if absent is not None:
        print(absent, file=sys.stderr)
        return 2 if not env.get("SUPERVISOR_ENABLED") else 1
    channel = Channel()
    try:
        settings = load(args)
    except SettingsError as error:
        print(f"supervisor-uvicorn: {error}", file=sys.stderr)
        return 2
    log = Log(2, settings.log_format, lambda: datetime.datetime.now().astimezone())
    try:
        listener = Listener(settings, env, log)
    except RpcError as error:
        log(events.Error("", explain_failure(error), reason="supervisord"))
        return 1
    return listener.run(channel)
