"""The event listener: with threads.py the only place with threads and clocks.

Seven threads, and those of metrics_server.py and notices.py, so that nothing that can wait holds up a look:

    events   (main) reads stdin, answers OK at once, and wakes the others
    roster   asks supervisord who should be there, and the kernel what they are
    look     pulses, probes, decides; never waits for anybody
    remedy   carries out what was decided, step by step (remedies.py)
    report   keeps the board in supervisord up to date (reporter.py)
    meter    measures what each worker takes of the machine (meters.py)
    reload   reads the settings again when somebody asks for it (reloads.py)

and a few short-lived ones for HTTP probes. They hand each other frozen values through :class:`Exchange` and nothing
else. A thread that fails in a way nobody thought of ends the process: supervisord starts it anew, and what was under
way is written down (intentions.py).
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from . import hup, memory, meters, metrics_server, notices
from .exchange import Exchange
from .exit_on import Beyond, leave
from .intentions import Intentions
from .kernel import proc
from .kernel.errors import KernelError
from .kernel.selftest import self_test
from .kernel.sock_diag import SockDiag
from .ledger import Ledger, RollEnded
from .limits import FRESH_S
from .model import State, WorkerId
from .notices import Notices
from .operations import Reply, paused_now
from .pages import Pages
from .probe.pins import Pins
from .reconcile import adopt
from .reloads import Reloads
from .remedies import Remedies, groups_of
from .report import events
from .report.history import History
from .report.log import Log
from .report.metrics.figures import Figures, View
from .report.notes import told_of
from .reporter import Reporter, fetch
from .rosters import UNSETTLED_S, Rosters
from .settings import ListenSettings, SettingsError, load
from .supervisord.calls import Supervisord
from .supervisord.channel import Channel
from .supervisord.lock import Lock
from .supervisord.preflight import explain_absence, explain_failure
from .supervisord.protocol import Event, payload_data, payload_fields
from .supervisord.request import KIND
from .supervisord.rpc import SHUTDOWN_STATE, BadAnswer, Fault, Rpc, RpcError, Unauthorized
from .supervisord.vigil import NO_TICK_S, Sign, Vigil
from .threads import Crew, guarded
from .usage import Measured, Meter, still_known
from .watch import Snapshot, Watch, workers

STANDBY_S = 2.0
EVENTS_S = 5.0  # without an event, until it is asked whether one should have come; TICK_5 is the shortest period
PROBE_THREADS = 32
COMING_BACK = (State.RUNNING, State.STARTING, State.BACKOFF, State.EXITED)
LEAVE_AGAIN_S = 10.0  # where supervisord did not take it
HOLD_AGAIN_S = 5.0  # a sixth of helpers.py HOLD_S

NO_TICK = (
    f"no TICK event has come in {NO_TICK_S:g} s, so no HTTP probe is made and the roster is read seldom: "
    "write events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION in the [eventlistener:...] section"
)
NOT_MEASURED = (
    f"nothing was measured of any worker for {FRESH_S:g} s (a read of /proc hangs?): limits are not applied, and "
    "memory, age and descriptors are not shown, until it goes on"
)
GIVEN_UP = (
    "no event comes any more although supervisord answers: it has given this listener up (state UNKNOWN, as a stray "
    "byte on its stdout brings about); leaving, so that it is started anew"
)


class Listener:
    """One listener of one supervisord."""

    def __init__(
        self,
        settings: ListenSettings,
        env: Mapping[str, str],
        tell: Callable[[events.Event], None],
        args: argparse.Namespace,
        figures: Figures,
    ) -> None:
        self._settings = settings
        self._env = env
        self._log = tell
        self._board = Exchange()
        self._history = History()
        self._figures = figures
        self._notices = Notices(settings, self._tell, figures.notified)
        self._reporter = Reporter(self._tell)
        self._clock = time.monotonic
        self._told: set[str] = set()
        self._reloads = Reloads(args, settings, env, self._tell, self._board, hup.taken())
        with self._rpc() as rpc:
            pid = _until_reachable(Supervisord(rpc), tell)
        born = _born(pid)
        self._lock = Lock(pid, born)
        intentions = Intentions.of_supervisord(pid, born)
        self._remedies = Remedies(settings, intentions, self._tell, self._board.add_outcome, self._clock)
        self._rosters = Rosters(settings, intentions, self._tell, self._board, self._clock)

    def _tell(self, event: events.Event) -> None:
        self._log(event)
        self._history.add(event, _wall_clock())
        self._figures.told(event)
        self._notices.put(event)

    # -- events -----------------------------------------------------------------------------------------------------

    def run(self, channel: Channel) -> int:
        """Until the end of input (0), or until supervisord has given this listener up (1)."""
        for work, name in ((self._act, "act"), (self._reloads.run, "reload")):
            threading.Thread(target=guarded, args=(work,), daemon=True, name=name).start()
        self._notices.start()
        metrics = metrics_server.start(self._settings, self._figures, self._tell)
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
                self._figures.heard(event.name)
                tick = vigil.heard(self._clock(), event.name)
                if tick and metrics is not None:
                    metrics.tick()
                # supervisord sends a rejected event again, also to listeners that did not reject it
                if event.serial is None or event.serial != last_serial:
                    self._hear(event, tick)
                last_serial = event.serial
            sign = vigil.sign(self._clock())
            if sign is Sign.ASK:
                vigil.answered_at = self._answers_at()
            elif sign is Sign.NO_TICK:
                self._tell_once(NO_TICK)
            elif sign is Sign.GIVEN_UP:
                self._tell(events.Error("", GIVEN_UP, reason="given up"))
                return 1

    def _hear(self, event: Event, tick: bool) -> None:
        if tick:
            self._board.put(tick=True, roster_wanted=True)
        elif event.name.startswith("PROCESS_STATE"):
            self._board.put(roster_wanted=True)
        elif event.name == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._board.put(stopping=True)
        elif event.name == "REMOTE_COMMUNICATION" and payload_fields(event.payload).get("type") == KIND:
            data = payload_data(event.payload)
            if not self._board.add_request(data):
                self._reloads.overhear(data)

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(events.Error("", what))

    def _answers_at(self) -> float | None:
        """When supervisord answered just now; None: it does not, so that events are late for another reason."""
        try:
            with self._rpc() as rpc:
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
        earlier = fetch(self._rpc(), self._tell)
        self._use(self._board.take_reloaded()[0])
        self._board.put(acting=True)
        for work, name in (
            (lambda: self._rosters.run(self._rpc()), "roster"),
            (lambda: self._remedies.run(self._rpc()), "remedy"),
            (lambda: self._reporter.run(self._rpc()), "report"),
            (self._measure, "meter"),
        ):
            threading.Thread(target=guarded, args=(work,), daemon=True, name=name).start()
        self._look(*earlier)

    def _measure(self) -> None:
        meter = Meter(self._clock, connections=_metrics_wanted(self._settings))
        meters.run(meter, lambda: self._settings.of, self._board, self._clock)

    def _use(self, settings: ListenSettings | None) -> None:
        """``settings`` that were read again; None: there are none."""
        if settings is not None:
            self._settings = self._remedies.settings = self._rosters.settings = settings
            self._board.put(roster_wanted=True)

    def _rpc(self) -> Rpc:
        return Rpc.from_environment(self._env, observe=self._figures.rpc)

    def _look(self, earlier_memory: str, earlier_history: str) -> None:
        board = self._board
        pins = Pins(SockDiag(), self._clock, Crew(PROBE_THREADS).submit, self._figures.lag)
        watch = Watch(self._settings, pins, reload=self._reloads.ask)
        snapshot = self._first_snapshot()
        ours = self._take_over(watch, snapshot, earlier_memory, earlier_history)
        pages = Pages(self._history, self._reporter)
        beyond = Beyond()
        left_at = -LEAVE_AGAIN_S
        next_at = looked_at = held_at = self._clock()
        due_s = half_s = self._settings.pulse_s / 2  # being late by less is no gap in our clock
        while True:
            with board.changed:
                while (
                    not (board.tick or board.news or board.outcomes or board.requests or board.reloaded)
                    and (left_s := self._until(next_at, pins.recheck_at)) > 0
                ):
                    board.changed.wait(left_s)
                full, outcomes, requests, snapshot = board.tick, board.outcomes, board.requests, board.snapshot
                measured = board.measured
                called = board.tick or board.news or bool(outcomes or requests or board.reloaded)
                settings, replies = board.take_reloaded()
                board.tick, board.news, board.outcomes, board.requests = False, False, [], []
                if board.stopping:
                    snapshot = replace(snapshot, shutting_down=True)
            now = self._clock()
            if not called and now < next_at:
                pins.recheck()
                due_s = watch.next_in_s(looked_at)
                next_at = looked_at + due_s
                continue
            if settings is not None:
                self._use(settings)
                watch.renew(settings)
                half_s = settings.pulse_s / 2
            for reply in replies:
                watch.reply(reply)
            known = still_known(measured, now)
            if known is not measured and measured.at:
                self._tell_once(NOT_MEASURED)
            measured = known
            told = [event for data in requests for event in watch.ask(data, snapshot, now, time.time())]
            decision, more = watch.look(
                now, snapshot, full=full, due_s=max(due_s, half_s), outcomes=outcomes, usages=measured.usages
            )
            for event in told + more:
                self._tell(event)
            self._remedies.show(_turning(watch), paused_now(watch.pauses, snapshot.members, now))
            for order in decision.orders:
                self._remedies.give(order, snapshot)
            still_ours = frozenset(name for program in watch.ledger.programs.values() for name in program.ours)
            if ours - still_ours:
                self._remedies.keep_only(still_ours)
                for group in sorted(groups_of(ours) - groups_of(still_ours)):
                    self._remedies.release(group)
            ours = still_ours
            if now - held_at >= HOLD_AGAIN_S:
                held_at = now
                for group in _coming_back(watch, snapshot):
                    self._remedies.hold(group)
            looked_at, due_s = now, watch.next_in_s(now)
            next_at = now + due_s
            pages.report(watch, snapshot, self._settings, now)
            self._show(watch, snapshot, measured, now)
            beyond, why = self._cannot_serve(beyond, watch, snapshot, now)
            if why and now - left_at >= LEAVE_AGAIN_S:
                left_at = now
                self._remedies.leave(why)

    def _cannot_serve(self, before: Beyond, watch: Watch, snapshot: Snapshot, now: float) -> tuple[Beyond, str]:
        def exit_on(group: str) -> str:
            settings = self._settings.of(group)
            return "none" if settings.dry_run else settings.exit_on

        members, programs = snapshot.members, watch.ledger.programs
        paused = paused_now(watch.pauses, members, now)
        stopping = snapshot.shutting_down
        return leave(before, members, snapshot.at, programs, exit_on, paused=paused, shutting_down=stopping)

    def _take_over(self, watch: Watch, snapshot: Snapshot, earlier_memory: str, earlier_history: str) -> frozenset[str]:
        """Go on where an earlier listener of this supervisord has ended; the names that are ours."""
        self._history.restore(earlier_history)
        now = self._clock()
        remembered = memory.from_text(earlier_memory, now) if earlier_memory else None
        if remembered is not None:
            watch.ledger = Ledger(remembered.programs, gaps=((now, remembered.away_s),))
            for group, program in remembered.programs.items():
                if program.roll is not None and program.roll.ended_at == now:  # it was not woken: see memory.py
                    self._tell(told_of(RollEnded(group, program.roll)))
            watch.pauses = remembered.paused
            watch.replies = tuple(Reply.of(answer) for answer in remembered.answers)
        found = self._remedies.left_over(snapshot)
        watch.ledger = adopt(watch.ledger, found, frozenset(remembered.programs if remembered else ()))
        return frozenset(found)

    def _show(self, watch: Watch, snapshot: Snapshot, measured: Measured, now: float) -> None:
        """Leave what this look knows for the next scrape."""
        figures = self._figures
        for worker, outcome in watch.answers:
            figures.probe(worker, outcome)
        paused = paused_now(watch.pauses, snapshot.members, now)
        figures.show(
            View(
                members=snapshot.members,
                ledger=watch.ledger,
                usages=measured.usages,
                queues=measured.queues,
                paused=paused,
                settings=self._settings.of,
                now=now,
                wall=time.time(),
            )
        )
        figures.looked(self._clock() - now)

    def _until(self, next_at: float, recheck_at: float | None) -> float:
        return (next_at if recheck_at is None else min(next_at, recheck_at)) - self._clock()

    def _first_snapshot(self) -> Snapshot:
        board = self._board
        with board.changed:
            while board.snapshot.at == 0.0:
                board.changed.wait()
            return board.snapshot


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


def _coming_back(watch: Watch, snapshot: Snapshot) -> list[str]:
    """The groups in which supervisord has in hand, or is about to, what we took down."""
    states = {member.name: member.state for member in snapshot.members}
    return [
        group
        for group, program in watch.ledger.programs.items()
        if any(states.get(name) in COMING_BACK for name in program.ours)
    ]


def _turning(watch: Watch) -> frozenset[WorkerId]:
    return frozenset(past.worker for past in workers(watch.ledger).values() if past.turns and past.worker is not None)


def _metrics_wanted(settings: ListenSettings) -> bool:
    return settings.metrics is not None or settings.metrics_textfile is not None


def _wall_clock() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


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
    hup.taken()
    channel = Channel()
    try:
        settings = load(args)
        notices.check(settings)
        metrics_server.check(settings)
    except SettingsError as error:
        print(f"supervisor-uvicorn: {error}", file=sys.stderr)
        return 2
    log = Log(2, settings.log_format, _wall_clock)
    try:
        listener = Listener(settings, env, log, args, Figures())
    except RpcError as error:
        log(events.Error("", explain_failure(error), reason="supervisord"))
        return 1
    code = listener.run(channel)
    hup.over()
    return code
