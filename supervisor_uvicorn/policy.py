"""Who is restarted, and when not: ``decide(ledger, now, look, settings)``. Pure: no clock, no I/O.

This program ends production processes, so the whole of it stands here, and a reader should be able to check it
against the situations that are feared. Three rules carry the rest.

**Uncertain is no reason.** Only a worker that supervisord calls RUNNING, that the kernel shows us, and whose verdict
(verdict.py) is ``silent``, ``failing`` or overdue in its start is ever a candidate. Unknown, starting, stopping, new
and healthy workers are not.

**A silent worker serves nothing, a failing one still does.** Ending a silent worker takes no capacity away, so it is
not asked whether peers are well; what is feared is that *the replacement* cannot start (its database is down) and
that one by one everybody is traded for a process that will never serve. Therefore the first replacement is a test:
until it is healthy nobody else of the program is ended, and once it is, up to half at once. Healthy means here that
its loop turns and it serves: what it answers is the other question. Ending a failing worker does take capacity away,
and wrong answers may have a cause that no restart mends, so there the peers are asked (panic.py).

**What we took down is ours** until its new pid is healthy, through EXITED, BACKOFF and FATAL. What the operator
stopped, and a FATAL that we did not cause, is not.

The brakes, in the order in which they are asked; the first that holds is told, once per change:

    ==================  =========  ============================================================================
    brake               holds      until
    ==================  =========  ============================================================================
    paused              all        ``resume``
    traced              all        no debugger is attached to it
    stuck               all        never for this pid: it outlived KILL
    in_doubt            all        a roster later than the signal that timed out
    (called off)        all        5 s after the remedy was called off, doubling to 60 s while the same brake calls
                                   it off again; its own brake is told
    rolling             limit      the rolling restart of the program is over
    suspended           limit      there is room in the budget again, or ``resume``
    sick                limit      no worker of the program is silent, overdue or failing: those go first
    state               roll       supervisord has it RUNNING, it can be looked at, and it is not ending by itself
    starting            roll       it serves
    silent              roll       no worker of the program is silent: those go first
    path                failing    somebody has answered right since the listener started or the path was changed
    panic               failing    at most panic_threshold of the judged fail and half the peers answer right;
                                   one canary after 60 s, then after 120, 240 and each 300 s. A limit waits too
    trial               all        the replacement under test serves, or start_timeout + 60 s have gone by; 60 s
                                   doubling to 300 s with each replacement more that does not
    last_serving        drain      another worker serves (two or more workers)
    max_unavailable     drain      fewer workers than this are not serving, late or not proven yet; for a limit: none
    backoff             health     10 s doubling to 300 s after the last restart of the same name; limits count theirs
                                   apart
    budget              health     (told as ``suspended``) a restart of the window is older than the window; not asked
                                   for a silent worker while nobody serves, and such a restart is not counted
    dry_run             all        the setting is taken away
    ==================  =========  ============================================================================

*roll* is a worker whose turn it is in a rolling restart that somebody asked for (rollout.py), *limit* one that is
healthy and over a limit (limits.py), *drain* are rolls, limits and failing workers, *health* are all but rolls and
limits. A worker of a roll that is silent is aborted, and only its own brakes and the trial hold it. What is over a
limit serves, so it comes last: one at a time, while nothing else is wrong; and that it waits is told only when it has
waited for a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from . import brakes, rollout
from .holding import Situation
from .ledger import (
    CalledOff,
    Decision,
    Held,
    Ledger,
    Look,
    Note,
    Ours,
    Program,
    Reason,
    Remedy,
    Restart,
    Resumed,
    RollEnded,
    Start,
    Suspended,
    WouldRestart,
)
from .model import Answer, Member, Verdict
from .panic import blame
from .reconcile import hear, reconcile
from .settings import Settings
from .verdict import Ages, Past, judge

ROLL_HELD_S = 5.0
"""A roll that waits for less is not told to be held: a peer that is late by a moment is no news."""

LIMIT_HELD_S = 60.0
"""The same for a worker over a limit: that it waits for its peers is how it is meant."""

GAPS_REMEMBERED_S = 3600.0
MOST_GAPS = 64
"""Older ones are joined, which forgives a little too much rather than too little: a listener that is late at every
look must not grow slower by it."""


def decide(ledger: Ledger, now: float, look: Look, settings: Callable[[str], Settings]) -> tuple[Ledger, Decision]:
    """One look's decision. ``settings`` gives a group's settings; ``now`` is monotonic seconds."""
    gaps = tuple(gap for gap in ledger.gaps if now - gap[0] < GAPS_REMEMBERED_S)
    if ledger.last_look is not None and now - ledger.last_look > 2 * look.due_s:
        gaps = (*gaps, (now, now - ledger.last_look - look.due_s))
    if len(gaps) > MOST_GAPS:
        (_, older_s), (ended, newer_s) = gaps[:2]
        gaps = ((ended, older_s + newer_s), *gaps[2:])
    ages = Ages(now, gaps)
    by_group: dict[str, list[Member]] = {}
    for member in look.members:
        by_group.setdefault(member.group, []).append(member)
    programs: dict[str, Program] = {}
    orders: list[Restart | Start] = []
    notes: list[Note] = []
    for group in sorted(by_group.keys() | ledger.programs.keys()):
        members = by_group.get(group, [])
        desk = _Desk(group, members, look, ages, settings(group), ledger.programs.get(group, Program()))
        desk.work()
        if members or desk.program.ours or (desk.program.roll and desk.program.roll.rolling):
            programs[group] = desk.program
        orders += desk.orders
        notes += desk.notes
    return Ledger(programs, now, gaps), Decision(tuple(orders), tuple(notes))


@dataclass
class _Desk(Situation):
    """One program's decision while it is being made: where the rules below lay down what they find."""

    orders: list[Restart | Start] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)  # what is held at this look -> brake

    def work(self) -> None:
        self._judge()
        self.program = hear(self.program, self.look.outcomes, self.ages)
        self.program, starts, notes = reconcile(
            self.program, self.members, self.ages, self.settings, self.look.roster_at, self._may_start
        )
        self.orders += starts
        self.notes += notes
        self._forget()
        if not self.look.shutting_down:
            self._restart_silent()
            self._restart_failing()
            self._go_on_rolling()
            self._recycle()
        self.program = replace(self.program, said=self.told)

    # -- what is known ----------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        before, workers = self.program.workers, {}
        watched = [member for member in self.members if not member.not_watched]
        for member in watched:
            worker = member.worker
            seen = self.look.evidence.get(worker) if worker else None
            workers[member.name] = judge(before.get(member.name), member, seen, self.ages, self.settings)
        answered_right = any(
            seen.http is not None and seen.http.answer is Answer.RIGHT
            for member in watched
            if member.worker and (seen := self.look.evidence.get(member.worker))
        )
        self.program = replace(self.program, workers=workers, right_ever=self.program.right_ever or answered_right)

    def _forget(self) -> None:
        """What has grown too old to count: spent restarts, backoffs of the long healthy, episodes that are over."""
        program, settings, ages = self.program, self.settings, self.ages
        spending = program.spending.still_counting(settings.budget, ages)
        waiting, recycled = self._not_forgotten(program.waiting), self._not_forgotten(program.recycled)
        called_off = {name: entry for name, entry in program.called_off.items() if self._still_wanted(entry)}
        alive = {past.worker for past in program.workers.values()}
        for name, mine in program.ours.items():  # adopted from an earlier listener
            if name not in waiting and mine.reason.of_health:
                waiting = brakes.after_restart(waiting, name, settings.backoff, mine.since)
            elif name not in recycled and mine.reason.of_a_limit:
                recycled = brakes.after_restart(recycled, name, settings.backoff, mine.since)
        calm = not program.ours and not any(self.loop_is_sick(past) for past in self.roster)
        room = {subject for subject in program.suspended if self.left(subject, spending) > 0}
        self.notes += [Resumed(subject, "there is room in the budget again") for subject in sorted(room)]
        self.program = replace(
            program,
            spending=spending,
            waiting=waiting,
            recycled=recycled,
            called_off=called_off,
            suspended=program.suspended - room,
            stuck=frozenset(worker for worker in program.stuck if worker in alive),
            healed=program.healed and not calm,
        )

    def _not_forgotten(self, waiting: Mapping[str, brakes.Waiting]) -> dict[str, brakes.Waiting]:
        forget_after_s = self.settings.backoff.forget_after_s
        return {name: entry for name, entry in waiting.items() if not self._healthy_for(name, forget_after_s)}

    def _still_wanted(self, entry: CalledOff) -> bool:
        """Is there still a reason to end it: it is sick, over a limit, or a roll has it in its list?"""
        past = self.program.workers.get(entry.worker.name)
        if past is None or past.worker != entry.worker:
            return False
        roll = self.program.roll
        to_go = roll is not None and roll.rolling and any(turn.old == entry.worker for turn in roll.turns)
        return to_go or past.verdict is not Verdict.HEALTHY or past.over_limit is not None

    def _healthy_for(self, name: str, seconds: float) -> bool:
        past = self.program.workers.get(name)
        return past is not None and past.verdict is Verdict.HEALTHY and self.ages.of(past.since) >= seconds

    # -- who is restarted -------------------------------------------------------------------------------------------

    def _restart_silent(self) -> None:
        sick = [past for past in self.roster if self.loop_is_sick(past)]
        for past in sorted(sick, key=lambda past: (past.verdict is not Verdict.SILENT, past.since, past.name)):
            reason = Reason.SILENT if past.verdict is Verdict.SILENT else Reason.START_TIMEOUT
            held = self.private_brake(past) or self.trial_brake(past) or self.backoff_brake(past)
            nobody_serves = not any(other.may_serve for other in self.roster)
            if held:
                self._hold(past.name, *held, past)
            elif nobody_serves or not self._out_of_budget(past):
                self._order(past, Remedy.ABORT, reason, past.reason, counts=not nobody_serves)

    def _restart_failing(self) -> None:
        failing = [past for past in self.roster if past.verdict is Verdict.FAILING]
        panic = blame(self.roster, self.settings.panic_threshold)
        self.program = replace(self.program, panic=self.program.panic.after(panic, self.roster, self.ages.now))
        for past in sorted(failing, key=lambda past: (past.since, past.name)):
            if held := self.private_brake(past):
                self._hold(past.name, *held, past)
                continue
            if not self.program.right_ever:
                asked = f"nobody has answered right on {self.settings.path} since we watch it"
                self._hold(self.group, "path", f"{asked}: is the path right?")
                continue
            before = self.program.panic
            canary = bool(panic) and before.canary_due(self.ages)
            if panic and not canary:
                self._hold(self.group, "panic", panic)
            elif (
                held := self.trial_brake(past, drain=True)
                or self.capacity_brake(past, canary)
                or self.backoff_brake(past)
            ):
                self._hold(past.name, *held, past)
            elif not self._out_of_budget(past):
                self._order(past, Remedy.DRAIN, Reason.CANARY if canary else Reason.FAILING, past.reason)
                if canary:  # in a dry run as well, or it would tell of all of them
                    self.program = replace(self.program, panic=before.with_canary(self.ages.now))

    def _go_on_rolling(self) -> None:
        before = self.program.roll
        if before is None or not before.rolling:
            return
        workers, stuck = self.program.workers, self.program.stuck
        # Also one whose remedy is over: the roster that we have may be older than its end.
        taken = frozenset(mine.worker for mine in self.program.ours.values())
        roll = rollout.advance(before, workers, taken, stuck, self.ages, self.settings, self.look.roster_at)
        held: tuple[str, str] | None = None
        unseen = any(turn.stage is rollout.Stage.UNDER_WAY and turn.name not in workers for turn in roll.turns)
        for turn in roll.waiting if roll.rolling and not unseen else ():
            if roll.under_way >= self.settings.max_unavailable:
                break
            past = workers[turn.name]
            brake = self.roll_brake(turn, past)
            if brake:
                held = held or brake
                continue
            if turn.old is None:
                self._start(past)
            else:
                remedy = Remedy.ABORT if self.loop_is_sick(past) else Remedy.DRAIN
                self._order(past, remedy, Reason.ROLLING, "a restart was asked for")
            roll = rollout.order(roll, turn, self.ages.now)
        if held and not roll.under_way:
            roll = rollout.wait(roll, ": ".join(held), self.ages)
            if self.ages.of(roll.waiting_since or self.ages.now) >= ROLL_HELD_S:
                self._hold(self.group, *held)
        if not roll.rolling:
            self.notes.append(RollEnded(self.group, roll))
        self.program = replace(self.program, roll=roll)

    def _recycle(self) -> None:
        """Replace who is well and over a limit: the longest over it first, and one at a time."""
        over = [
            (past.over_limit, past)
            for past in self.roster
            # Whose loop does not turn just now may be computing: it is held to be healthy, and TERM would not be heard.
            if past.over_limit and past.verdict is Verdict.HEALTHY and past.turns
        ]
        for limit, past in sorted(over, key=lambda one: (one[0].since, one[1].name)):
            if any(isinstance(order, Restart) and order.worker == past.worker for order in self.orders):
                continue  # its turn in a roll has come at this very look
            if held := self.limit_brake(past):
                if self.ages.of(limit.since) >= LIMIT_HELD_S:
                    self._hold(past.name, *held, past)
                continue
            self._order(past, Remedy.DRAIN, Reason(limit.limit), limit.words)

    def _start(self, past: Past) -> None:
        """Start a name that is down for a roll, and, where it is ours, let reconcile know of it."""
        name, mine = past.name, self.program.ours.get(past.name)
        if any(isinstance(order, Start) and order.name == name for order in self.orders):
            return
        self.orders.append(Start(name, f"{past.state.value}, and a restart was asked for"))
        if mine is not None:
            mine = replace(mine, starts=mine.starts + 1, started_at=self.ages.now, down_since=None)
            self.program = replace(self.program, ours={**self.program.ours, name: mine})

    def _may_start(self, name: str) -> bool:
        """What we took down comes back, also once ``dry_run`` is set (reload): what is begun is finished."""
        return not (self.look.shutting_down or self.paused(name))

    def _out_of_budget(self, past: Past) -> bool:
        for subject in (self.group, past.name):
            if self.left(subject, self.program.spending) > 0:
                continue
            if subject not in self.program.suspended:
                allowed = brakes.allowance(self.settings.budget, len(self.roster))
                share = "" if subject == self.group else "half of "
                window_s = self.settings.budget.window_s
                why = f"{share}the budget of {allowed} restarts in {window_s:g} s is spent; watched, not acted on"
                self.notes.append(Suspended(subject, f"{why} ({past.name}: {past.reason})"))
                self.program = replace(self.program, suspended=self.program.suspended | {subject})
            return True
        return False

    # -- what is said and done --------------------------------------------------------------------------------------

    def _hold(self, subject: str, brake: str, detail: str, past: Past | None = None) -> None:
        if subject in self.told:
            return
        if brake == "remedy":
            self._said_stays(subject)
            return
        self.told[subject] = brake
        if self.program.said.get(subject) != brake:
            self.notes.append(Held(subject, brake, detail, past.worker if past else None))

    def _said_stays(self, subject: str) -> None:
        """A remedy that may be called off by the brake that was told before it is no change."""
        if subject in self.program.said:
            self.told[subject] = self.program.said[subject]

    def _order(self, past: Past, remedy: Remedy, reason: Reason, detail: str, *, counts: bool = True) -> None:
        """Order the restart and write it into the ledger; a dry run only tells it. ``counts``: against the budget."""
        assert past.worker is not None  # a verdict that leads here is only given to a worker that was looked at
        order = Restart(past.worker, remedy, reason, detail, past)
        if self.settings.dry_run:
            self.told[past.name] = "dry_run"
            if self.program.said.get(past.name) != "dry_run":
                self.notes.append(WouldRestart(order))
            return
        self.orders.append(order)
        self._said_stays(past.name)
        program, now, name = self.program, self.ages.now, past.name
        health, backoff = reason.of_health, self.settings.backoff  # a roll spends neither budget nor backoff
        before = program.ours.get(name)
        mine = Ours(
            past.worker,
            now,
            reason,
            remedy,
            detail,
            taken_at=before.first_at if before and not before.came_up else None,
            waiting_before=(program.recycled if reason.of_a_limit else program.waiting).get(name),
            panic_before=program.panic if reason is Reason.CANARY else None,
            ours_before=replace(before, ours_before=None) if before else None,
        )
        self.program = replace(
            program,
            ours={**program.ours, name: mine},
            spending=program.spending.spend(name, now) if counts and health else program.spending,
            waiting=brakes.after_restart(program.waiting, name, backoff, now) if health else program.waiting,
            recycled=brakes.after_restart(program.recycled, name, backoff, now)
            if reason.of_a_limit
            else program.recycled,
        )
