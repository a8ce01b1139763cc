"""What the policy notes, as the events that are told of it."""

from __future__ import annotations

from supervisor_uvicorn.ledger import (
    GaveBack,
    Held,
    Note,
    Paused,
    Replaced,
    Resumed,
    RollBegan,
    Suspended,
    WouldRestart,
)
from supervisor_uvicorn.rollout import RollState, Stage

from . import events


def told_of(note: Note) -> events.Event:
    """The event of one note."""
    if isinstance(note, Held):
        return events.Held(note.subject, f"is held, {note.brake}: {note.detail}", note.brake, note.worker)
    if isinstance(note, WouldRestart):
        order = note.order
        verdict = order.seen.verdict.value if order.seen else ""
        return events.WouldRestart(order.worker, order.reason.value, order.detail, order.remedy.value, verdict)
    if isinstance(note, Suspended):
        return events.Suspended(note.subject, f"is suspended: {note.detail}", "budget")
    if isinstance(note, Resumed):
        return events.Resumed(note.subject, f"is acted on again: {note.detail}", note.brake)
    if isinstance(note, Paused):
        return events.Paused(note.subject, f"is paused {note.detail}", "paused")
    if isinstance(note, Replaced):
        return events.Replaced(note.worker, note.old.pid, note.reason.value, note.took_s)
    if isinstance(note, GaveBack):
        return events.Released(note.name, f"is left to supervisord again: {note.detail}")
    roll = note.roll
    if isinstance(note, RollBegan):
        return events.Rolling(note.group, f"is being rolled: {len(roll.turns)} to restart", "rolling")
    if roll.state is RollState.STOPPED:
        return events.RollStopped(note.group, f"is not rolled any further: {roll.detail}", "stopped")
    took_s = (roll.ended_at or roll.since) - roll.since
    done = sum(1 for turn in roll.turns if turn.stage is Stage.DONE)
    return events.Rolling(note.group, f"is rolled: {done} restarted in {took_s:.1f} s", "done")
