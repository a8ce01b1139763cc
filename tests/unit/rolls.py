"""What tests of rolling restarts do with a world: ask for one, wait for its end, look at its turns."""

from __future__ import annotations

from unit.histories import World


def rolled(world: World, at_most_s: float = 120, step_s: float = 1.0) -> float:
    """Seconds until the roll has ended."""
    return world.run_until(lambda: not world.roll.rolling, at_most_s, step_s)


def stages(world: World) -> list[str]:
    return [turn.stage.value for turn in world.roll.turns]


def asked(world: World, *names: str) -> str:
    reply = world.ask("restart", *names or ("web",))
    assert reply.accepted, reply.detail
    return reply.detail


def refused(world: World, *names: str) -> str:
    before = world.ledger
    reply = world.ask("restart", *names)
    assert not reply.accepted, reply.detail
    assert world.ledger == before
    return reply.detail
