"""What never happens, whatever the workers, the operator, supervisord and the clock do: properties of ``decide``.

Generated lives (1 to 6 workers, faults, repairs, operators, remedies that end in every way, looks that come late,
doubled or not at all) are played in a world that knows what is true (histories.py), and after each look every order is
held against the truth of that world, not against what the policy believes. A failing life prints its steps and the
blob that plays it again (``@reproduce_failure``); ``pytest -m acceptance`` plays many more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as profile
from hypothesis import strategies as st
from unit.histories import FOREVER, Process, Sim, World

from supervisor_uvicorn.brakes import allowance
from supervisor_uvicorn.ledger import Decision, Look, Program, Reason, Remedy, Replaced, Restart, Result, Start
from supervisor_uvicorn.model import Answer, Evidence, HttpOutcome, State, Verdict, WorkerId
from supervisor_uvicorn.policy import decide
from supervisor_uvicorn.rollout import LONGEST_WAIT_S, NO_PROCESS, Roll, RollState, Stage
from supervisor_uvicorn.settings import Backoff, Budget, Settings
from supervisor_uvicorn.settings_limits import MaxAge

FEW = profile(
    max_examples=40,
    derandomize=True,  # the same lives in every run; others are for the long profile
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
MANY = profile(FEW, max_examples=2000, derandomize=False)

WHAT_IF = 7
"""At each look with an order, and at each seventh, it is also asked what another look would have led to."""

_worker = st.integers(0, 5)

Step = tuple[object, ...]

# The figures are small, so that a life of some hundred looks meets every brake.
_faults: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("hang"), _worker, st.booleans(), st.sampled_from([FOREVER, FOREVER, 4.0, 1.5])),
    st.tuples(st.just("hang all")),
    st.tuples(st.just("poison"), _worker),
    st.tuples(st.just("debug"), _worker),
    st.tuples(st.just("hang for good"), _worker),
    st.tuples(st.just("answer"), _worker, st.just(Answer.WRONG), st.sampled_from([0.01, 1.0, 20.0])),
    st.tuples(st.just("answer"), _worker, st.just(Answer.WRONG), st.just(0.01)),
    st.tuples(st.just("dependency"), st.just(False)),
    st.tuples(st.just("set"), _worker, st.sampled_from(["poisoned", "wrong_again"]), st.booleans()),
    st.tuples(st.just("set"), _worker, st.sampled_from(["can_start", "autorestart"]), st.booleans()),
    st.tuples(st.just("start_s"), _worker, st.sampled_from([5.0, FOREVER, 0.5])),
    st.tuples(st.just("dies"), _worker),
    st.tuples(st.just("leak"), _worker, st.sampled_from([1e6, 20e6]), st.booleans()),
)
_others: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("recover"), _worker),
    st.tuples(st.just("answer"), _worker, st.sampled_from([Answer.RIGHT, Answer.BUSY]), st.just(0.01)),
    st.tuples(st.just("dependency"), st.just(True)),
    st.tuples(
        st.just("set"), _worker, st.sampled_from(["limit_concurrency", "wins_no_accept", "hidden"]), st.booleans()
    ),
    st.tuples(st.just("unreadable"), _worker, st.booleans()),
    st.tuples(st.just("traced"), _worker, st.booleans()),
    st.tuples(st.just("result"), _worker, st.sampled_from(list(Result)), st.sampled_from([0.1, 3.0, 12.0])),
    st.tuples(st.just("stopping"), _worker),
    st.tuples(st.just("stop"), _worker, st.sampled_from([0.0, 10.0])),
    st.tuples(st.just("start"), _worker),
    st.tuples(st.just("pause"), st.one_of(st.just("web"), _worker.map("web:web-{}".format))),
    st.tuples(st.just("resume")),
    st.tuples(st.just("roster"), st.booleans()),
)
_names = st.one_of(st.just(("web",)), st.lists(_worker.map("web:web-{}".format), min_size=1, max_size=3).map(tuple))
_requests: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("restart"), _names),
    st.tuples(st.just("restart"), _names),
    st.tuples(st.just("restart"), st.just(("web",))),
    st.tuples(st.just("ask pause"), _names, st.sampled_from([None, 5.0, 60.0])),
    st.tuples(st.just("ask resume")),
    st.tuples(st.just("new listener"), st.sampled_from([0.1, 3.0, 60.0, 700.0]), st.booleans()),
    st.tuples(st.just("new listener"), st.just(0.1), st.booleans()),
    st.tuples(st.just("listed"), _worker, st.booleans()),
)
# (seconds since the last look, how many such looks): on time, doubled, lost, late, and a listener that was stopped.
_looks: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("look"), st.just(1.0), st.integers(5, 60)),
    st.tuples(st.just("look"), st.just(1.0), st.integers(10, 120)),
    st.tuples(st.just("look"), st.sampled_from([0.001, 0.25, 2.0, 3.0, 30.0]), st.integers(1, 12)),
)
_chapters = st.tuples(
    st.lists(_faults, min_size=1, max_size=2), _looks, st.lists(_others, max_size=1), st.lists(_looks, max_size=2)
)
_lives = st.lists(_chapters, min_size=2, max_size=8).map(
    lambda chapters: [step for faults, look, others, looks in chapters for step in (*faults, look, *others, *looks)]
)
# A request first, so that most of what happens happens in the middle of a roll.
_rolling_chapters = st.tuples(
    st.lists(_requests, min_size=1, max_size=2),
    _looks,
    st.lists(st.one_of(_faults, _others, _requests), max_size=2),
    st.lists(_looks, max_size=2),
)
_rolling_lives = st.lists(_rolling_chapters, min_size=2, max_size=8).map(
    lambda chapters: [step for asked, look, more, looks in chapters for step in (*asked, look, *more, *looks)]
)
_settings = st.builds(
    Settings,
    silent_after_s=st.sampled_from([1.0, 3.0, 8.0]),
    path=st.sampled_from([None, "/healthz", "/healthz"]),
    failing_after=st.sampled_from([1, 3]),
    panic_threshold=st.sampled_from([0.25, 0.5, 1.0]),
    start_timeout_s=st.sampled_from([4.0, 10.0]),
    max_unavailable=st.integers(1, 3),
    backoff=st.sampled_from([Backoff(0, 0), Backoff(2, 8), Backoff(10, 300)]),
    budget=st.sampled_from([Budget(), Budget(1, 60), Budget(4, 60), Budget(1000)]),
    dry_run=st.sampled_from([False] * 7 + [True]),
    max_rss_bytes=st.sampled_from([None, 100_000_000]),
    max_age=st.sampled_from([None, None, MaxAge(120.0, 30.0)]),
)


@dataclass
class Referee:
    """Holds each order against what is true. ``orders`` counts, so that a test can show that it saw any."""

    seen: set[WorkerId] = field(default_factory=set)
    orders: list[tuple[float, Restart]] = field(default_factory=list)
    away: dict[str, float] = field(default_factory=dict)  # ended by us and not known to serve again -> since
    counted: list[tuple[float, str]] = field(default_factory=list)  # what the budget is spent on
    healed: bool = False
    was_right: bool = False
    off: set[tuple[float, str]] = field(default_factory=set)  # orders that were called off
    to_go: set[WorkerId] = field(default_factory=set)  # there when a roll was asked for
    rolled: set[WorkerId] = field(default_factory=set)  # of these: ordered, and nothing has been heard that undoes it
    rolls_ended: list[Roll] = field(default_factory=list)
    listening_since: float = -FOREVER  # this listener
    outlived: set[int] = field(default_factory=set)  # KILL; such a worker of a roll goes on serving
    looks: int = 0

    def __call__(self, world: World, look: Look, decision: Decision) -> None:
        self.hear(world, look, decision)
        program = world.ledger.programs.get("web")
        if program is not None:
            self.rolls_on(world, program)
        for order in decision.orders:
            if isinstance(order, Start):
                self.may_be_started(world, look, order)
                continue
            assert program is not None
            self.is_a_proper_candidate(world, look, order)
            if order.reason is Reason.ROLLING:
                self.may_be_rolled(world, program, order, decision)
                continue
            if order.reason.of_a_limit:
                self.may_be_recycled(world, program, order, decision)
                continue
            if order.remedy is Remedy.DRAIN:
                self.may_be_drained(world, look, order, decision)
            else:
                self.may_be_aborted(world, order, decision)
            self.keeps_the_pace(world, order)
        self.seen |= look.evidence.keys()
        self.looks += 1
        if decision.orders or self.looks % WHAT_IF == 0:
            self.doubled(world, look)
            self.late(world, look)
            self.health_protects(world, look, decision)
        self.note_down(world, decision)

    # -- the truth that the referee keeps -----------------------------------------------------------------------------

    def hear(self, world: World, look: Look, decision: Decision) -> None:
        for outcome in look.outcomes:
            if outcome.result is not Result.ENDED:
                self.rolled.discard(outcome.worker)
            if outcome.result is Result.STUCK:
                self.outlived.add(outcome.worker.pid)
            if outcome.result is Result.CALLED_OFF:
                name = outcome.worker.name
                last = max((at for at, order in self.orders if order.worker == outcome.worker), default=0.0)
                self.off.add((last, name))
                self.counted = [entry for entry in self.counted if entry != (last, name)]
                if self.away.get(name) == last:
                    del self.away[name]
        for told in decision.notes:
            if isinstance(told, Replaced):
                assert self.is_up(world, world.sim(told.worker.name))
                self.healed |= told.reason.of_the_loop
        for sim in world.sims:
            if self.came_up(world, sim):
                self.away.pop(sim.name, None)
            if sim.state is State.STOPPED or not sim.listed:
                self.away.pop(sim.name, None)
        self.was_right |= any(
            seen.http is not None and seen.http.answer is Answer.RIGHT for seen in look.evidence.values()
        )

    def came_up(self, world: World, sim: Sim) -> bool:
        """Has its process, one that we have not ended, or could not, turned its loop since it serves?"""
        process = sim.process
        if process is None:
            return False
        if process.pid not in self.outlived and any(order.worker.pid == process.pid for _, order in self.orders):
            return False
        return self.is_up(world, sim) and process.turned_since(process.serves_at, world.now)

    def note_down(self, world: World, decision: Decision) -> None:
        for order in decision.orders:
            if isinstance(order, Restart):
                self.orders.append((world.now, order))
                self.away.setdefault(order.worker.name, world.now)
        program = world.ledger.programs.get("web")
        if program is not None and not program.healed:
            self.healed = False

    @staticmethod
    def is_up(world: World, sim: Sim) -> bool:
        """True as soon as it may have served between two looks."""
        process = sim.process
        return sim.state is State.RUNNING and process is not None and process.serves(world.now)

    @staticmethod
    def process_of(world: World, order: Restart) -> tuple[Sim, Process]:
        sim = world.sim(order.worker.name)
        assert sim.process is not None
        assert sim.process.pid == order.worker.pid, "an order against a pid that is gone"
        return sim, sim.process

    # -- the invariants -----------------------------------------------------------------------------------------------

    def is_a_proper_candidate(self, world: World, look: Look, order: Restart) -> None:
        """RUNNING, known, not new, not paused, not traced, not stopping by itself; and nobody is at it already."""
        member = next(member for member in look.members if member.name == order.worker.name)
        assert member.state is State.RUNNING
        assert member.worker == order.worker
        seen = self.to_go if order.reason is Reason.ROLLING else self.seen  # to_go: the roster showed it before
        assert order.worker in seen, "an order against a worker at its first look"
        assert not {order.worker.name, "web"} & look.paused
        assert not look.shutting_down
        assert not world.settings.dry_run
        sim, process = self.process_of(world, order)
        assert not sim.traced_by
        assert not sim.hidden
        assert not sim.unreadable
        # A new listener cannot tell who no longer serves from who does not serve yet.
        was_before = process.stopping_since <= self.listening_since
        assert process.stopping_since > world.now or was_before, "it is stopping by itself"
        assert not any(worker == order.worker for _, worker, _ in world.under_way)

    def may_be_aborted(self, world: World, order: Restart, decision: Decision) -> None:
        """Its loop was blocked all the time, or it never came to serve: the truth, whatever was seen of it."""
        limits = world.settings
        self.is_sick(world, order, order.reason is Reason.SILENT)
        others = {name: at for name, at in self.away.items() if name != order.worker.name}
        at_this_look = [one.worker.name for one in decision.orders if isinstance(one, Restart)]
        workers = sum(1 for sim in world.sims if sim.state is not State.STOPPED and sim.listed)
        at_once = max(1, min((workers + 1) // 2, workers - 1))
        assert len([one for one in at_this_look if self.remedy(decision, one) is Remedy.ABORT]) <= at_once
        waited_s = min((world.now - at for at in others.values()), default=FOREVER)
        if waited_s < limits.start_timeout_s + 60:
            assert self.healed, "the first replacement is the test"
            assert len(others) < at_once, "more than half at once"

    def is_sick(self, world: World, order: Restart, silent: bool) -> None:
        _, process = self.process_of(world, order)
        limits = world.settings
        if silent:
            assert not process.turned_since(world.now - limits.silent_after_s, world.now), "its loop was turning"
        else:
            assert not process.serves(world.now)
            assert world.now - process.began >= limits.start_timeout_s

    @staticmethod
    def remedy(decision: Decision, name: str) -> Remedy | None:
        found = (one.remedy for one in decision.orders if isinstance(one, Restart) and one.worker.name == name)
        return next(found, None)

    def may_be_drained(self, world: World, look: Look, order: Restart, decision: Decision) -> None:
        """Wrong answers one after another, right ones known, and enough others that serve."""
        _, process = self.process_of(world, order)
        counting = [answer for answer in process.answers if answer in (Answer.RIGHT, Answer.WRONG)]
        last = counting[-world.settings.failing_after :]
        assert len(last) == world.settings.failing_after
        assert set(last) == {Answer.WRONG}
        assert self.was_right, "nobody has ever answered right: the path is wrong"
        self.leaves_enough(world, order, decision)

    def may_be_recycled(self, world: World, program: Program, order: Restart, decision: Decision) -> None:
        """Over its limit, well, alone in it, and nothing else is wrong or under way."""
        _, process = self.process_of(world, order)
        limits, name = world.settings, order.worker.name
        if order.reason is Reason.MAX_RSS:
            assert limits.max_rss_bytes is not None
            assert process.rss_bytes > limits.max_rss_bytes
        else:
            assert order.reason is Reason.MAX_AGE
            assert limits.max_age is not None
            assert world.now - process.began > limits.max_age.least_s
        assert order.remedy is Remedy.DRAIN
        assert program.workers[name].verdict is Verdict.HEALTHY
        assert not self.away.keys() - {name}, "together with others"
        assert [one for one in decision.orders if isinstance(one, Restart)] == [order]
        assert program.roll is None or not program.roll.rolling
        assert program.panic.since is None, "in panic"
        assert not {"web", name} & program.suspended
        assert not [one for one in program.workers.values() if one.verdict in (Verdict.SILENT, Verdict.FAILING)]
        self.leaves_enough(world, order, decision)
        before = [at for at, one in self.orders if one.reason.of_a_limit and one.worker.name == name]
        if before and (before[-1], name) not in self.off:
            assert world.now - before[-1] >= limits.backoff.first_s

    def leaves_enough(self, world: World, order: Restart, decision: Decision) -> None:
        """max_unavailable, and never the last that serves, with all that this look and earlier ones have ordered."""
        shown = [sim for sim in world.sims if sim.listed and not sim.not_watched]
        others = [sim for sim in shown if sim.state is not State.STOPPED and sim.name != order.worker.name]
        serving = [sim for sim in others if self.is_up(world, sim) and not sim.hidden and not sim.unreadable]
        ended_now = {one.worker.name for one in decision.orders if isinstance(one, Restart)}
        away = [sim for sim in others if sim not in serving or sim.name in ended_now]
        before = decision.orders.index(order)
        later = {one.worker.name for one in decision.orders[before + 1 :] if isinstance(one, Restart)}
        away = [sim for sim in away if sim.name not in later]
        assert len(away) < world.settings.max_unavailable, "max_unavailable"
        being_ended = {worker.name for _, worker, _ in world.under_way} | (ended_now - later)
        if others:
            assert any(sim.name not in being_ended for sim in serving), "the last worker that serves"

    def may_be_rolled(self, world: World, program: Program, order: Restart, decision: Decision) -> None:
        """Asked for, once, in its turn: after who is silent, and after the proof of whoever went before."""
        roll = world.before.programs["web"].roll
        assert roll is not None
        assert roll.rolling, "a roll that has ended orders nothing"
        assert order.worker not in self.rolled, "a second time"
        self.rolled.add(order.worker)
        past = program.workers[order.worker.name]
        if order.remedy is Remedy.ABORT:
            self.is_sick(world, order, past.verdict is Verdict.SILENT)
            return
        silent = [one.name for one in program.workers.values() if one.verdict is Verdict.SILENT]
        assert not silent, "who is silent goes before the roll"
        self.leaves_enough(world, order, decision)
        going = {
            turn.name
            for turn in roll.turns
            if turn.stage is not Stage.LEFT and turn.old in self.rolled and turn.name != order.worker.name
        }
        unproven = [name for name in going if not self.is_proven(world, world.sim(name))]
        assert len(unproven) < world.settings.max_unavailable, f"not proven yet: {unproven}"

    def is_proven(self, world: World, sim: Sim) -> bool:
        """Its process is not one that was told to go, it serves, and has answered right where it can be asked."""
        process = sim.process
        if sim.state is State.STOPPED or (process and process.stopping_since <= world.now):
            return True  # by others' hands, and counted by max_unavailable
        if process is None or not self.is_up(world, sim):
            return False
        if any(worker.pid == process.pid for worker in self.rolled):
            return False
        return world.settings.path is None or Answer.RIGHT in process.answers or not process.pinned

    def rolls_on(self, world: World, program: Program) -> None:
        """What the roll says of itself is true."""
        before, roll = world.before.programs.get("web", Program()).roll, program.roll
        if before is None or roll is None or not before.rolling:
            assert roll == before
            return
        for was, turn in zip(before.turns, roll.turns, strict=True):
            assert (was.name, was.old) == (turn.name, turn.old)
            if was.stage in (Stage.DONE, Stage.LEFT):
                assert replace(turn, done_at=was.done_at) == was, "what has ended stays so"
            elif turn.stage is Stage.DONE:
                sim = world.sim(turn.name)
                assert sim.process is not None
                assert turn.old is None or sim.process.pid != turn.old.pid, "its process is still there"
                assert self.is_proven(world, sim)
        if roll.state is RollState.DONE:
            for turn in roll.turns:
                process = world.sim(turn.name).process
                still = process is not None and turn.old is not None and process.pid == turn.old.pid
                assert not still, "done, and a process that had to go is there"
        if not roll.rolling:
            self.rolls_ended.append(roll)

    def asked(self, world: World, names: tuple[str, ...]) -> None:
        """Who is there when a roll is asked for, as far as the listener can know."""
        there = {member.worker for member in world.roster() if member.state not in NO_PROCESS and member.worker}
        self.to_go |= {worker for worker in there if {"web", worker.name} & set(names)}

    def keeps_the_pace(self, world: World, order: Restart) -> None:
        """Backoff and budget, counted anew from the orders themselves."""
        limits, name = world.settings, order.worker.name
        spent = [(at, one.worker.name) for at, one in self.orders if one.reason.of_health]
        lasting = [at for at, spender in spent if spender == name and (at, name) not in self.off]
        if lasting:
            assert world.now - lasting[-1] >= limits.backoff.first_s
        program = world.ledger.programs["web"]
        workers = [past for past in program.workers.values() if past.state is not State.STOPPED]
        others_may_serve = any(past.may_serve for past in workers)
        if order.remedy is Remedy.ABORT and not others_may_serve:
            return
        window = [entry for entry in self.counted if world.now - entry[0] < limits.budget.window_s]
        whole = allowance(limits.budget, len(workers))
        assert len(window) < whole, "over the budget"
        if len(workers) > 1:
            assert sum(1 for _, spender in window if spender == name) < (whole + 1) // 2, "more than its share"
        self.counted.append((world.now, name))

    @staticmethod
    def may_be_started(world: World, look: Look, order: Start) -> None:
        """Only what we took down, or what somebody wants restarted, and only where supervisord leaves it down."""
        member = next(member for member in look.members if member.name == order.name)
        assert member.state in (State.EXITED, State.FATAL)
        before = world.before.programs["web"]
        asked = before.roll is not None and before.roll.rolling
        to_start = asked and (order.name, None) in {(turn.name, turn.old) for turn in before.roll.waiting}
        assert order.name in before.ours or to_start
        assert not {order.name, "web"} & look.paused
        assert not look.shutting_down
        assert not world.settings.dry_run

    @staticmethod
    def again(look: Look) -> Look:
        """The same look once more: what is told only once is not in it."""
        evidence = {worker: replace(seen, http=None) for worker, seen in look.evidence.items()}
        return replace(look, evidence=evidence, outcomes=())

    def doubled(self, world: World, look: Look) -> None:
        """A doubled TICK: the same again, at once or a moment later, orders nothing."""
        for later_s in (0.0, 0.001):
            _, decision = decide(world.ledger, world.now + later_s, self.again(look), lambda group: world.settings)
            assert decision.orders == (), f"a look doubled after {later_s} s: {decision}"

    @staticmethod
    def late(world: World, look: Look) -> None:
        """A late TICK: the same look, later than due by more than is forgiven, orders nothing more."""
        if world.before.last_look is None:
            return
        on_time = replace(look, due_s=1.0)
        _, punctual = decide(world.before, world.before.last_look + 1.0, on_time, lambda group: world.settings)
        for late_s in (2.5, 300.0):
            _, late = decide(world.before, world.before.last_look + late_s, on_time, lambda group: world.settings)
            assert set(late.orders) <= set(punctual.orders), (
                f"{late_s} s after the last look: {late.orders}, else {punctual.orders}"
            )

    @staticmethod
    def health_protects(world: World, look: Look, decision: Decision) -> None:
        """More evidence of health of a worker, however little, never adds an order against that worker."""

        def against(worker: WorkerId, seen: Evidence) -> set[Restart]:
            other = replace(look, evidence={**look.evidence, worker: seen})
            _, decided = decide(world.before, world.now, other, lambda group: world.settings)
            restarts = [one for one in decided.orders if isinstance(one, Restart) and one.worker == worker]
            return {one for one in restarts if one.reason.of_health}  # rolls and limits end who is well

        right = HttpOutcome(Answer.RIGHT, status=200)
        ordered = {one.worker for one in decision.orders if isinstance(one, Restart)}
        for worker, seen in look.evidence.items():
            well = Evidence(worker, serving=True, pinned=True, http=right)
            assert not against(worker, well)
            if worker in ordered or seen.ticks is None:
                continue
            woken = replace(seen.ticks, switches=seen.ticks.switches + 10)
            better = [
                replace(seen, ticks=woken),
                replace(seen, unread_since=None),
                replace(seen, unread_since=None if seen.unread_since is None else world.now),
                replace(seen, queued_since=None),
                replace(seen, http=right),
            ]
            for one in better:
                assert not against(worker, one), f"{one} instead of {seen}"


def play(workers: int, settings: Settings, steps: list[Step], dependency_up: bool = True) -> Referee:
    world = World(workers, settings, dependency_up=dependency_up)
    referee = Referee()
    referee.seen = set(world.last_look.evidence) if world.last_look else set()
    referee.was_right = settings.path is not None and dependency_up
    world.watch = referee
    note(f"{workers} workers, {settings}")
    try:
        for step in steps:
            happens(world, step, referee)
        if world.ledger.programs.get("web", Program()).roll is not None:
            calm(world)
    except AssertionError:
        note(world.story())
        raise
    return referee


def calm(world: World) -> None:
    """All is well from now on: the roll goes on, and ends."""
    world.paused, world.pauses, world.dependency_up = frozenset(), {}, True
    world.frozen, world.roster_at = (), None
    for index, sim in enumerate(world.sims):
        sim.can_start, sim.autorestart, sim.poisoned, sim.wrong_again, sim.start_s = True, True, False, False, 0.5
        sim.limit_concurrency = sim.wins_no_accept = sim.hidden = sim.unreadable = False
        sim.listed, sim.traced_by, sim.result, sim.remedy_s = True, 0, Result.ENDED, 0.1
        if sim.process is not None:
            world.recover(index)
            sim.process.answer, sim.process.takes_s = Answer.RIGHT, 0.01
            world.leak(0.0, index)
            sim.process.serves_at = min(sim.process.serves_at, world.now)
            if sim.process.stopping_since <= world.now:
                world.dies(sim)
    world.run_until(lambda: not world.roll.rolling, LONGEST_WAIT_S + 20.0 * len(world.roll.turns), 2.0)


def seen_to_serve(world: World, sim: Sim) -> bool:
    past = world.ledger.programs.get("web", Program()).workers.get(sim.name)
    known = past is not None and past.worker is not None and sim.process is not None
    return known and past.worker.pid == sim.process.pid and past.served_since is not None


def happens(world: World, step: Step, referee: Referee) -> None:
    what, *values = step
    if what == "look":
        after_s, times = values
        for _ in range(int(str(times))):
            world.look(float(str(after_s)))
        return
    first = values[0] if values else 0
    index = first % len(world.sims) if isinstance(first, int) else 0
    sim = world.sims[index]
    if what == "hang" and sim.process:
        world.hang(index, burning=bool(values[1]), for_s=float(str(values[2])))
    elif what == "poison" and sim.process:  # it hangs, and so will each new process
        sim.poisoned = True
        world.hang(index)
    elif what == "hang for good" and sim.process:  # and supervisord does not bring it back
        sim.autorestart = False
        world.hang(index)
    elif what == "debug" and sim.process:  # it is stopped at a breakpoint
        sim.traced_by = 77
        world.hang(index)
    elif what == "hang all":
        world.hang(*(other for other, one in enumerate(world.sims) if one.process))
    elif what == "recover" and sim.process:
        world.recover(index)
    elif what == "answer" and sim.process:
        sim.process.answer, sim.process.takes_s = Answer(values[1]), float(str(values[2]))
    elif what == "dependency":
        world.dependency_up = bool(values[0])
    elif what == "leak" and sim.process:
        world.leak(float(str(values[1])), index, again=bool(values[2]))
    elif what == "set":
        setattr(sim, str(values[1]), bool(values[2]))
    elif what == "unreadable":
        sim.unreadable = bool(values[1])
    elif what == "traced":
        sim.traced_by = 77 if values[1] else 0
    elif what == "start_s":
        sim.start_s = float(str(values[1]))
    elif what == "result":
        sim.result, sim.remedy_s = Result(values[1]), float(str(values[2]))
    elif what == "stopping" and sim.process and seen_to_serve(world, sim):  # before, nobody could tell
        sim.process.stopping_since = min(sim.process.stopping_since, world.now)
    elif what == "dies" and sim.process:
        world.dies(sim)
    elif what == "stop":
        world.operator_stops(index, float(str(values[1])))
    elif what == "start" and sim.process is None:
        world.operator_starts(index)
    elif what in ("restart", "ask pause"):
        assert isinstance(values[0], tuple)
        names = tuple(name for name in values[0] if name == "web" or int(name.rpartition("-")[2]) < len(world.sims))
        if what == "restart":
            there = world.roster()
            reply = world.ask("restart", *names)
            if reply.accepted:
                referee.asked(world, names)
            assert there == world.roster()
        elif names:
            world.ask("pause", *names, for_s=None if values[1] is None else float(str(values[1])))
    elif what == "ask resume":
        suspended = world.ledger.programs.get("web", Program()).suspended
        world.ask("resume")  # it gives back what they had spent
        referee.counted = [entry for entry in referee.counted if not {"web", entry[1]} & suspended]
    elif what == "new listener":
        if not values[1]:  # what was ordered and not begun is not done
            for name, mine in world.ledger.programs.get("web", Program()).ours.items():
                process = world.sim(name).process
                if process is not None and process.pid == mine.worker.pid:
                    referee.away.pop(name, None)
        world.new_listener(float(str(values[0])), signalled=bool(values[1]))
        referee.seen, referee.rolled, referee.listening_since = set(), set(), world.now
    elif what == "listed":
        sim.listed = bool(values[1])
    elif what == "pause":
        world.paused |= {str(values[0])}
    elif what == "resume":
        world.paused = frozenset()
    elif what == "roster":
        world.frozen, world.roster_at = (world.members(), world.now) if values[0] else ((), None)


@FEW
@given(st.integers(1, 6), _settings, _lives, st.sampled_from([True, True, True, False]))
def test_no_life_makes_the_policy_break_its_promises(
    workers: int, settings: Settings, steps: list[Step], dependency_up: bool
) -> None:
    play(workers, settings, steps, dependency_up)


@FEW
@given(st.integers(1, 6), _settings, _rolling_lives, st.sampled_from([True, True, True, False]))
def test_no_life_makes_a_roll_break_its_promises(
    workers: int, settings: Settings, steps: list[Step], dependency_up: bool
) -> None:
    play(workers, settings, steps, dependency_up)


@pytest.mark.acceptance
@pytest.mark.timeout(3000)
@MANY
@given(st.integers(1, 6), _settings, _rolling_lives, st.sampled_from([True, True, True, False]))
def test_no_life_of_many_makes_a_roll_break_its_promises(
    workers: int, settings: Settings, steps: list[Step], dependency_up: bool
) -> None:
    play(workers, settings, steps, dependency_up)


@pytest.mark.acceptance
@pytest.mark.timeout(3000)
@MANY
@given(st.integers(1, 6), _settings, _lives, st.sampled_from([True, True, True, False]))
def test_no_life_of_many_makes_the_policy_break_its_promises(
    workers: int, settings: Settings, steps: list[Step], dependency_up: bool
) -> None:
    play(workers, settings, steps, dependency_up)
