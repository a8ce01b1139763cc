"""What holds a restart: the brakes of policy.py's table, as questions about one program at one look. Pure.

A part of policy.py, which asks them and says why there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import brakes, rollout
from .ledger import Look, Program, Remedy
from .model import Member, State, Verdict
from .reconcile import in_doubt
from .settings import Settings
from .verdict import Ages, Past

TRIAL_FIRST_S, TRIAL_LONGEST_S = 60.0, 300.0
"""How long after start_timeout the next single trial may go (design, section 6)."""

CALLED_OFF_S, CALLED_OFF_LONGEST_S = 5.0, 60.0
"""A remedy that was called off is not tried again before the first; each try is a scan of all processes and two writes
to a disk, so what calls it off each time (a stranger on the socket, for days) makes the tries as rare as the second."""


@dataclass
class Situation:
    """One program at one look."""

    group: str
    members: list[Member]  # all of the group, the trees too
    look: Look
    ages: Ages
    settings: Settings
    program: Program

    @property
    def roster(self) -> list[Past]:
        """The workers that should exist now: what the operator stopped should not."""
        return [past for past in self.program.workers.values() if past.state is not State.STOPPED]

    def left(self, subject: str, spending: brakes.Spending) -> int:
        budget, workers = self.settings.budget, len(self.roster)
        if subject == self.group:
            return spending.left(budget, workers)
        return spending.left_of(subject, budget, workers)

    @staticmethod
    def loop_is_sick(past: Past) -> bool:
        return past.verdict is Verdict.SILENT or past.overdue

    # -- the brakes: (which, why) of what holds, or None ------------------------------------------------------------

    def paused(self, name: str) -> bool:
        return bool({name, self.group} & self.look.paused)

    def private_brake(self, past: Past) -> tuple[str, str] | None:
        """What holds this one worker, whatever its peers do."""
        mine = self.program.ours.get(past.name)
        if self.paused(past.name):
            return "paused", "until resume"
        if past.traced_by:
            return "traced", f"a debugger (pid {past.traced_by}) is attached to it"
        if past.worker in self.program.stuck:
            return "stuck", "it outlived KILL; not repeated"
        if mine is not None and mine.under_way:
            return "remedy", "its remedy is under way"
        if mine is not None and in_doubt(mine, self.look.roster_at):
            return "in_doubt", "a signal to it timed out and may still be carried out"
        entry = self.program.called_off.get(past.name)
        if entry is not None:
            wait_s = brakes.doubled_s(CALLED_OFF_S, entry.repeats, CALLED_OFF_LONGEST_S)
            return (entry.brake, entry.detail) if self.ages.of(entry.at) < wait_s else None
        return None

    def trial_brake(self, past: Past, drain: bool = False) -> tuple[str, str] | None:
        """A silent worker waits for every replacement, not for a drain that goes on; one that is drained waits here for
        those of silent ones only, because max_unavailable has the others.
        """
        ours = {
            name: mine
            for name, mine in self.program.ours.items()
            if mine.reason.of_the_loop or not (drain or (mine.under_way and mine.remedy is Remedy.DRAIN))
        }
        out = [name for name in sorted(ours) if name != past.name and not ours[name].came_up]
        workers = len(self.roster)
        at_once = max(1, min((workers + 1) // 2, workers - 1)) if self.program.healed else 1
        too_many = len(out) - at_once
        if too_many < 0:
            return None
        waited_s = min(self.ages.of(ours[name].first_at) for name in out)
        wait_s = self.settings.start_timeout_s + brakes.doubled_s(TRIAL_FIRST_S, too_many, TRIAL_LONGEST_S)
        single = not any(mine.under_way for name, mine in ours.items() if name != past.name)
        return (
            None
            if waited_s >= wait_s and single
            else ("trial", f"waits until the replacement of {', '.join(out)} is healthy")
        )

    def capacity_brake(self, past: Past, canary: bool, most: int | None = None) -> tuple[str, str] | None:
        """``most``: in place of ``max_unavailable``."""
        others = [other for other in self.roster if other.name != past.name]
        ours = self.program.ours  # who has just been told to end serves for the last time
        staying = [one for one in others if one.name not in ours or ours[one.name].worker != one.worker]
        if others and not any(other.serves for other in staying):
            return "last_serving", "it is the last worker that serves"
        away = [
            other.name
            for other in others
            if not other.serves or other.late or (other.name in self.program.ours and not (canary and other.turns))
        ]
        limit = self.settings.max_unavailable if most is None else most
        if len(away) >= limit:
            return (
                "max_unavailable",
                f"not serving, late or not proven yet: {', '.join(sorted(away))} (max_unavailable {limit})",
            )
        return None

    def roll_brake(self, turn: rollout.Turn, past: Past) -> tuple[str, str] | None:
        """What holds this turn. Backoff and budget do not: somebody asked for it."""
        if self.settings.dry_run:
            return "dry_run", "until the setting is taken away"
        if turn.old is None:
            return self.start_brake(turn.name)
        if held := self.private_brake(past):
            return held
        if past.state is not State.RUNNING or past.verdict is Verdict.STOPPING or not past.looked:
            return "state", f"{past.name}: {past.reason or past.state.value}"
        if self.loop_is_sick(past):
            return self.trial_brake(past)
        sick = [other.name for other in self.roster if self.loop_is_sick(other)]
        if sick:
            return "silent", f"{', '.join(sorted(sick))} goes first"
        if past.verdict is Verdict.STARTING:
            return "starting", f"{past.name} does not serve yet"
        return self.trial_brake(past, drain=True) or self.capacity_brake(past, canary=False)

    def start_brake(self, name: str) -> tuple[str, str] | None:
        mine = self.program.ours.get(name)
        if self.paused(name):
            return "paused", "until resume"
        if mine is not None and mine.under_way:
            return "remedy", f"the remedy of {name} is under way"
        if mine is not None and in_doubt(mine, self.look.roster_at):
            return "in_doubt", f"a signal to {name} timed out and may still be carried out"
        return None

    def limit_brake(self, past: Past) -> tuple[str, str] | None:
        """What holds a worker that is well and over a limit: everything else goes first, and one is taken at a time."""
        if held := self.private_brake(past):
            return held
        program = self.program
        if program.roll is not None and program.roll.rolling:
            return "rolling", "a rolling restart is under way"
        if program.panic.since is not None:
            return "panic", "too many workers are failing"
        for subject in (self.group, past.name):
            if subject in program.suspended:
                return "suspended", f"the budget of restarts of {subject} is spent"
        sick = [other.name for other in self.roster if self.loop_is_sick(other) or other.verdict is Verdict.FAILING]
        if sick:
            return "sick", f"{', '.join(sorted(sick))} goes first"
        away = sorted(program.ours.keys() - {past.name})
        if away:
            return "max_unavailable", f"one at a time, and {', '.join(away)} is not proven healthy yet"
        return (
            self.trial_brake(past, drain=True)
            or self.capacity_brake(past, canary=False, most=1)
            or self._left(program.recycled, past)
        )

    def backoff_brake(self, past: Past) -> tuple[str, str] | None:
        return self._left(self.program.waiting, past)

    def _left(self, waiting: Mapping[str, brakes.Waiting], past: Past) -> tuple[str, str] | None:
        left_s = brakes.backoff_left_s(waiting, past.name, self.ages)
        return ("backoff", f"restarted a short while ago; again in {left_s:.0f} s") if left_s > 0 else None
