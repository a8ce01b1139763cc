"""The short part of the fuzzing, the same inputs each time: two thousand a target, in some seconds. And whether the
engine would see what it looks for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fuzz import campaign, plain
from fuzz.target import Check, Target, holds
from fuzz.targets import TARGETS

COUNT = 2000
SEED = 1


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_it(name: str) -> None:
    outcome = plain.run(TARGETS[name], COUNT, SEED)
    assert outcome.inputs >= COUNT
    assert [failure.as_object() for failure in outcome.failures.found.values()] == []
    assert outcome.worst_cpu_s < 1.0, outcome.worst_input
    grown = outcome.blocks_after - outcome.blocks_before
    assert grown < 0.5 * outcome.inputs, f"{grown} objects more after {outcome.inputs} inputs"


def toy(check: Check) -> Target:
    @contextmanager
    def session() -> Iterator[Check]:
        yield check

    return Target("toy", "nothing of the product", session, (b"abc", b"abcdefgh"), (b"TOKEN",))


def test_the_engine_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "HANG_S", 0.2)
    hung = 0

    def broken(data: bytes) -> None:
        nonlocal hung
        holds(b"TOKEN" not in data, "a word that may not be")
        if data.startswith(b"\x80"):
            raise KeyError("an error of another kind")
        if data.endswith(b"abcabc") and hung < 2:
            hung += 1
            try:
                while True:
                    time.sleep(0.01)
            except Exception:  # noqa: BLE001 - a reader that catches everything hides no hang
                pass

    outcome = plain.run(toy(broken), 3000, SEED)
    assert {failure.kind for failure in outcome.failures.found.values()} == {"Violation", "KeyError", "Hang"}
    assert outcome.worst_s >= 0.2


def test_the_engine_sees_growth() -> None:
    kept: list[bytes] = []
    outcome = plain.run(toy(lambda data: kept.append(bytes(bytearray(data)))), 3000, SEED)
    grown = outcome.blocks_after - outcome.blocks_before
    assert grown > 1500
    row = campaign.Row("toy", plain=outcome.inputs, blocks=2 * grown)
    assert row.troubles[0].startswith("grown: ")


def test_the_same_seed_makes_the_same_inputs() -> None:
    def seen(seed: int) -> list[bytes]:
        inputs: list[bytes] = []
        plain.run(toy(inputs.append), 200, seed)
        return inputs

    assert seen(1) == seen(1) != seen(2)
