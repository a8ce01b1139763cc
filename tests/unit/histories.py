"""A world of workers for the tests of the policy: what is true in it, and what a look shows of that.

The world knows when each event loop was blocked, what each worker answers, and what supervisord makes of a process that
ends; it never asks the policy. So a test can say what happened, let time pass, and compare what the policy ordered with
what was true. Times are seconds; the clock moves only in :meth:`World.look`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from supervisor_uvicorn import memory
from supervisor_uvicorn.ledger import (
    Decision,
    Held,
    Ledger,
    Look,
    Note,
    Ours,
    Outcome,
    Program,
    Remedy,
    Restart,
    Result,
    Start,
)
from supervisor_uvicorn.model import Address, Answer, Evidence, HttpOutcome, Member, State, Ticks, Usage, WorkerId
from supervisor_uvicorn.operations import Pauses, Reply, carry_out, paused_now, run_out
from supervisor_uvicorn.policy import decide
from supervisor_uvicorn.reconcile import adopt
from supervisor_uvicorn.rollout import Roll
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verdict import Past

TICK_S = 5.0
STARTSECS_S = 1.0
FATAL_AFTER_S = 14.5  # three failed starts, a second more between each two (facts/experiments, 11)
FOREVER = float("inf")
_pids = itertools.count(100)


def _covered_s(spans: list[tuple[float, float]], since: float, until: float) -> float:
    """How much of the time between ``since`` and ``until`` at least one of the spans covers."""
    covered_s, reached = 0.0, since
    for start, end in sorted(spans):
        begin, stop = max(start, reached), min(end, until)
        if stop > begin:
            covered_s, reached = covered_s + stop - begin, stop
    return covered_s


@dataclass
class Process:
    """One pid, as it is."""

    pid: int
    began: float
    serves_at: float  # FOREVER: its start-up never ends
    blocked: list[tuple[float, float, bool]] = field(default_factory=list)  # (from, until, burning CPU)
    answer: Answer = Answer.RIGHT
    takes_s: float = 0.01
    stopping_since: float = FOREVER
    # what our pin knows of it
    pinned: bool = False
    unread_since: float | None = None
    queued_since: float | None = None
    asked_at: float | None = None
    answers: list[Answer] = field(default_factory=list)  # delivered to the policy
    # what it takes
    rss_bytes: float = 50e6
    leaks_bytes_per_s: float = 0.0
    fds: int = 20
    measured: Usage | None = None

    def measure(self, now: float, since: float) -> None:
        """As the meter does; it has leaked since ``since``."""
        self.rss_bytes += self.leaks_bytes_per_s * (now - since)
        size_bytes = int(self.rss_bytes)
        self.measured = Usage(now, now - self.began, size_bytes, size_bytes, fds=self.fds, fds_limit=1000)

    def is_blocked(self, now: float) -> bool:
        return any(start <= now < end for start, end, _ in self.blocked)

    def turned_since(self, then: float, now: float) -> bool:
        return not any(start <= then and now < end for start, end, _ in self.blocked)

    def serves(self, now: float) -> bool:
        """Is the listening socket in its epoll?"""
        return self.serves_at <= now < self.stopping_since

    def ticks(self, now: float) -> Ticks:
        """Counters never go back, also where it was blocked for two reasons at once."""
        blocked_s = _covered_s([(start, end) for start, end, _ in self.blocked], self.began, now)
        burnt_s = _covered_s([(start, end) for start, end, burning in self.blocked if burning], self.began, now)
        return Ticks(int(10 * (now - self.began - blocked_s)), round(burnt_s, 2))


@dataclass
class Sim:
    """One name of supervisord, and what will become of its processes."""

    name: str
    state: State = State.RUNNING
    process: Process | None = None
    until: float = FOREVER  # when supervisord moves it on
    start_s: float = 0.5  # imports and lifespan start-up
    can_start: bool = True  # False: every process exits at once
    poisoned: bool = False  # every new process hangs as soon as it serves
    wrong_again: bool = False  # every new process answers wrong
    leaks_bytes_per_s: float = 0.0  # every new process does
    autorestart: bool = True
    limit_concurrency: bool = False  # no pin may be held
    wins_no_accept: bool = False  # it is never pinned, though it accepts
    hidden: bool = False  # the kernel does not show it to us
    listed: bool = True  # False: the roster has no such worker (removed, or a wrapper before its exec)
    not_watched: str = ""
    unreadable: bool = False  # this look can read nothing of it
    traced_by: int = 0
    remedy_s: float = 0.1
    result: Result = Result.ENDED  # how a remedy ends


class World:
    """Workers ``web:web-0`` and on, all well and looked at twice. ``restarts`` and ``starts`` are what was ordered."""

    def __init__(self, workers: int = 4, settings: Settings | None = None, *, dependency_up: bool = True) -> None:
        self.settings = settings or Settings()
        self.now = 10_000.0
        self.ledger = Ledger()
        self.sims = [Sim(f"web:web-{index}") for index in range(workers)]
        for sim in self.sims:
            sim.process = self._process(sim, -100.0)
        self.dependency_up = dependency_up
        self.paused: frozenset[str] = frozenset()
        self.pauses: Pauses = {}  # those that were asked for
        self.replies: list[Reply] = []
        self.shutting_down = False
        self.roster_at: float | None = None  # frozen; None: read at each look
        self.frozen: tuple[Member, ...] = ()
        self.under_way: list[tuple[float, WorkerId, Remedy]] = []
        self.outcomes: list[Outcome] = []
        self.restarts: list[tuple[float, Restart]] = []
        self.starts: list[tuple[float, Start]] = []
        self.notes: list[tuple[float, Note]] = []
        self.tick_at = self.now
        self.measured_at = self.now
        self.measures = True  # False: the meter hangs
        self.before = Ledger()
        self.last_look: Look | None = None
        self.watch: Callable[[World, Look, Decision], None] = lambda world, look, decision: None
        self.run(2 * TICK_S + 1)

    # -- what a test does ---------------------------------------------------------------------------------------------

    def hang(self, *indexes: int, for_s: float = FOREVER, burning: bool = False) -> None:
        for index in indexes:
            self.alive(index).blocked.append((self.now, self.now + for_s, burning))

    def recover(self, index: int) -> None:
        process = self.alive(index)
        process.blocked = [(start, min(end, self.now), burning) for start, end, burning in process.blocked]

    def answer(self, answer: Answer, *indexes: int, takes_s: float = 0.01) -> None:
        for index in indexes:
            self.alive(index).answer, self.alive(index).takes_s = answer, takes_s

    def leak(self, bytes_per_s: float, *indexes: int, again: bool = True) -> None:
        """``again``: every new process of these names does so, too."""
        for index in indexes:
            self.alive(index).leaks_bytes_per_s = bytes_per_s
            self.sims[index].leaks_bytes_per_s = bytes_per_s if again else 0.0

    def alive(self, index: int) -> Process:
        process = self.sims[index].process
        assert process is not None
        return process

    def operator_stops(self, index: int, takes_s: float = 0.0) -> None:
        """``takes_s``: it does not hear SIGTERM, so that supervisord waits for it."""
        self.sims[index].state, self.sims[index].until = State.STOPPING, self.now + takes_s
        self._supervisord()

    def operator_starts(self, index: int) -> None:
        self._spawn(self.sims[index])

    def ask(self, verb: str, *names: str, for_s: float | None = None, age_s: float = 0.0) -> Reply:
        """What a person types; heard by the listener between two looks, as ``Watch.ask`` does."""
        request = Request(f"ask-{len(self.replies)}", verb, names, for_s)
        carried = carry_out(
            request,
            self.ledger,
            self.pauses,
            self.roster(),
            self.now,
            lambda group: self.settings,
            age_s=age_s,
            shutting_down=self.shutting_down,
        )
        self.ledger, self.pauses = carried.ledger, carried.pauses
        self.notes += [(self.now, note) for note in carried.notes]
        self.replies.append(carried.reply)
        return carried.reply

    def new_listener(self, away_s: float = 0.0, *, signalled: bool = True) -> None:
        """The listener is killed, and the next one comes ``away_s`` later: with what memory.py and intentions.py keep.

        ``signalled``: the first signal of each remedy under way has been sent; else it is judged anew.
        """
        text = memory.to_text(self.ledger, self.pauses, [], self.now)
        ours = {name: mine for program in self.ledger.programs.values() for name, mine in program.ours.items()}
        self.under_way, self.outcomes = [], []
        self.now += away_s
        self._supervisord()
        kept = memory.from_text(text, self.now)
        assert kept is not None
        self.ledger, self.pauses = Ledger(kept.programs, gaps=((self.now, kept.away_s),)), kept.paused
        members = {member.name: member for member in self.members()}
        found: dict[str, Ours] = {}
        for name, mine in ours.items():  # as remedies.py left_over does
            member = members.get(name)
            same = member is not None and member.worker == mine.worker
            if member is None or (same and not signalled) or (not same and member.state is State.STOPPED):
                continue
            finish = same and member.state is State.RUNNING
            found[name] = Ours(mine.worker, self.now, mine.reason, mine.remedy, mine.detail, under_way=finish)
            if finish:
                self.under_way.append((self.now + self.sim(name).remedy_s, mine.worker, mine.remedy))
        self.ledger = adopt(self.ledger, found, frozenset(kept.programs))
        for sim in self.sims:
            if sim.process is not None:
                sim.process.pinned, sim.process.unread_since, sim.process.queued_since = False, None, None
                sim.process.asked_at = None

    def run(self, seconds: float, step_s: float = 1.0) -> None:
        """Looks each ``step_s``, with TICKs each 5 s."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.look(step_s)

    def run_until(self, happened: Callable[[], object], at_most_s: float, step_s: float = 1.0) -> float:
        """Seconds until it has happened; fails after ``at_most_s``."""
        began = self.now
        while not happened():
            assert self.now - began < at_most_s, f"not within {at_most_s} s; {self.story()}"
            self.look(step_s)
        return self.now - began

    def look(self, after_s: float, *, due_s: float = 1.0, tick: bool | None = None) -> Decision:
        """Time passes, supervisord does its work, and one look is taken. ``tick`` None: where one is due."""
        self.now += after_s
        self._supervisord()
        if tick is None:
            tick = self.now >= self.tick_at
        if tick:
            self.tick_at = self.now + TICK_S
        self._measure()
        evidence = self._evidence(tick)
        members = self.roster()
        at = self.now if self.roster_at is None else self.roster_at
        outcomes, self.outcomes = tuple(self.outcomes), []
        self.pauses, over = run_out(self.pauses, self.now)
        self.notes += [(self.now, note) for note in over]
        paused = self.paused | paused_now(self.pauses, members, self.now)
        look = Look(members, evidence, at, due_s, outcomes, paused, self.shutting_down)
        self.before, self.last_look = self.ledger, look
        self.ledger, decision = decide(self.before, self.now, look, lambda group: self.settings)
        self.watch(self, look, decision)
        for order in decision.orders:
            if isinstance(order, Start):
                self.starts.append((self.now, order))
                self._start(order.name)
            else:
                self.restarts.append((self.now, order))
                sim = self.sim(order.worker.name)
                self.under_way.append((self.now + sim.remedy_s, order.worker, order.remedy))
        self.notes += [(self.now, note) for note in decision.notes]
        return decision

    # -- what a test asks ---------------------------------------------------------------------------------------------

    def sim(self, name: str) -> Sim:
        return next(sim for sim in self.sims if sim.name == name)

    @property
    def program(self) -> Program:
        return self.ledger.programs["web"]

    @property
    def roll(self) -> Roll:
        """The one under way, or the last that was."""
        roll = self.program.roll
        assert roll is not None, "nobody has asked for one"
        return roll

    def pids(self) -> list[int]:
        """Of each name; 0: none."""
        return [sim.process.pid if sim.process else 0 for sim in self.sims]

    def past(self, index: int) -> Past:
        return self.ledger.programs["web"].workers[f"web:web-{index}"]

    def serving(self) -> list[int]:
        return [index for index, sim in enumerate(self.sims) if sim.state is State.RUNNING and self._well(sim)]

    def ended(self) -> list[tuple[int, str]]:
        """(index, reason) of all restarts ordered so far."""
        return [(int(order.worker.name.rpartition("-")[2]), order.reason.value) for _, order in self.restarts]

    def restarted_at(self) -> list[float]:
        return [at for at, _ in self.restarts]

    def told(self, kind: type[Note]) -> list[Note]:
        return [note for _, note in self.notes if isinstance(note, kind)]

    def held(self) -> list[tuple[str, str]]:
        """(subject, brake) of all that was told as held."""
        return [(note.subject, note.brake) for _, note in self.notes if isinstance(note, Held)]

    def story(self) -> str:
        lines = [f"{at - 10_000:.1f}: {what}" for at, what in [*self.restarts, *self.starts, *self.notes]]
        return "\n".join(["what happened:", *lines])

    # -- what the world does ------------------------------------------------------------------------------------------

    def _well(self, sim: Sim) -> bool:
        return sim.process is not None and sim.process.serves(self.now) and not sim.process.is_blocked(self.now)

    def roster(self) -> tuple[Member, ...]:
        """As the listener has it: :meth:`members`, unless it is frozen."""
        return self.frozen if self.roster_at is not None else self.members()

    def members(self) -> tuple[Member, ...]:
        return tuple(
            Member(
                sim.name,
                sim.state,
                sim.process.pid if sim.process else 0,
                sim.process.pid if sim.process and not sim.hidden else None,
                socket=Address("tcp", "127.0.0.1", 80),
                socket_inode=1,
                not_watched=sim.not_watched,
            )
            for sim in self.sims
            if sim.listed
        )

    def _process(self, sim: Sim, after_s: float) -> Process:
        process = Process(next(_pids), self.now + min(after_s, 0.0), self.now + after_s)
        if sim.poisoned:
            process.blocked.append((process.serves_at, FOREVER, False))
        if sim.wrong_again:
            process.answer = Answer.WRONG
        process.leaks_bytes_per_s = sim.leaks_bytes_per_s
        return process

    def _spawn(self, sim: Sim) -> None:
        sim.process = self._process(sim, sim.start_s)
        sim.state = State.STARTING
        sim.until = self.now + STARTSECS_S

    def _start(self, name: str) -> None:
        sim = self.sim(name)
        if sim.state in (State.EXITED, State.FATAL, State.STOPPED):
            self._spawn(sim)

    def _supervisord(self) -> None:
        for entry in [entry for entry in self.under_way if entry[0] <= self.now]:
            self.under_way.remove(entry)
            _, worker, _ = entry
            sim = self.sim(worker.name)
            if sim.result in (Result.ENDED, Result.IN_DOUBT) and sim.process and sim.process.pid == worker.pid:
                self.dies(sim)
            detail = {Result.CALLED_OFF: "socket"}.get(sim.result, "")
            self.outcomes.append(Outcome(worker, sim.result, detail, detail))
        for sim in self.sims:
            if sim.until > self.now:
                continue
            sim.until = FOREVER
            if sim.state is State.STARTING and sim.can_start:
                sim.state = State.RUNNING
            elif sim.state is State.STARTING:
                sim.state, sim.process, sim.until = State.BACKOFF, None, self.now + FATAL_AFTER_S
            elif sim.state is State.BACKOFF:
                sim.state = State.FATAL
            elif sim.state is State.STOPPING:
                sim.state, sim.process = State.STOPPED, None

    def dies(self, sim: Sim) -> None:
        """Its process ends, by whatever hand."""
        if sim.state is State.STOPPING:
            sim.state, sim.process = State.STOPPED, None
        elif sim.autorestart and not self.shutting_down:
            self._spawn(sim)
        else:
            sim.state, sim.process = State.EXITED, None

    # -- what a look shows: as watch.py, pins and proc would --------------------------------------------------------

    def _measure(self) -> None:
        """Each 5 s, as meters.py does."""
        if self.now - self.measured_at < TICK_S or not self.measures:
            return
        for sim in self.sims:
            if sim.process is not None and sim.state is State.RUNNING:
                sim.process.measure(self.now, max(self.measured_at, sim.process.began))
        self.measured_at = self.now

    def _evidence(self, tick: bool) -> Mapping[WorkerId, Evidence]:
        found = {}
        for sim in self.sims:
            process = sim.process
            if process is None or sim.hidden:  # whatever its state: the policy must not rely on watch.py's own filter
                continue
            worker = WorkerId(sim.name, process.pid, process.pid)
            seen = Evidence(worker) if sim.unreadable else self._see(sim, process, worker, tick)
            found[worker] = replace(seen, usage=process.measured)
        return found

    def _see(self, sim: Sim, process: Process, worker: WorkerId, tick: bool) -> Evidence:
        now = self.now
        serves, blocked = process.serves(now), process.is_blocked(now)
        if not serves:
            process.pinned, process.unread_since, process.asked_at = False, None, None
        elif not blocked and not sim.limit_concurrency and not sim.wins_no_accept:
            process.pinned, process.queued_since = True, None
        elif not process.pinned and blocked and len(self.serving()) == 0:
            process.queued_since = now if process.queued_since is None else process.queued_since
        http = None
        if process.unread_since is not None and process.turned_since(process.unread_since, now):
            process.unread_since = None
        if process.pinned and process.unread_since is None:
            http = self._answer(process)
            if process.asked_at is None and tick and self.settings.path is not None and not blocked:
                process.asked_at = now
            if blocked and process.asked_at is None:
                process.unread_since = now
        if process.pinned and process.unread_since is None:
            return Evidence(worker, pinned=True, http=http, traced_by=sim.traced_by)
        return Evidence(
            worker,
            serving=None if process.pinned else serves,
            pinnable=not sim.limit_concurrency,
            pinned=process.pinned,
            unread_since=process.unread_since,
            queued_since=process.queued_since,
            ticks=process.ticks(now),
            http=http,
            process_state="R" if blocked and any(burning for *_, burning in process.blocked) else "S",
            traced_by=sim.traced_by,
        )

    def _answer(self, process: Process) -> HttpOutcome | None:
        asked_at, limit_s = process.asked_at, self.settings.timeout_s
        if asked_at is None:
            return None
        waited_s = self.now - asked_at
        if process.takes_s > limit_s or not process.turned_since(asked_at, self.now):
            if waited_s < limit_s:
                return None
            outcome = HttpOutcome(Answer.WRONG, f"no answer within {limit_s:g} s", seconds=limit_s)
        elif waited_s < process.takes_s:
            return None
        else:
            answer = process.answer if self.dependency_up else Answer.WRONG
            status = {Answer.RIGHT: 200, Answer.WRONG: 500, Answer.BUSY: 503}.get(answer)
            outcome = HttpOutcome(answer, f"status {status}", status, process.takes_s)
        process.asked_at = None
        process.answers.append(outcome.answer)
        return outcome
