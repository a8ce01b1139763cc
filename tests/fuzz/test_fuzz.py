"""The short part of the fuzzing, the same inputs each time: some thousand a target, in some ten seconds."""

from __future__ import annotations

import pytest

from fuzz import plain
from fuzz.targets import TARGETS

COUNT = 2000
SEED = 1


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_it(name: str) -> None:
    target = TARGETS[name]
    outcome = plain.run(target, COUNT, SEED)
    assert [failure.as_object() for failure in outcome.failures.found.values()] == []
    assert outcome.worst_cpu_s < 1.0, outcome.worst_input
    grown = outcome.blocks_after - outcome.blocks_before
    assert grown < 0.5 * outcome.inputs, f"{grown} objects more after {outcome.inputs} inputs"
