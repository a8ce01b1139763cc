"""Backoff, budget and panic as values: single steps in tables."""

from __future__ import annotations

import pytest

from supervisor_uvicorn import brakes
from supervisor_uvicorn.brakes import Spending, Waiting
from supervisor_uvicorn.model import State, Verdict, WorkerId
from supervisor_uvicorn.panic import Panic, blame
from supervisor_uvicorn.settings import Backoff, Budget
from supervisor_uvicorn.verdict import Ages, Past


@pytest.mark.parametrize(
    ("times", "wait_s"), [(0, 10), (1, 20), (4, 160), (5, 300), (100, 300), (5000, 300), (10**9, 300)]
)
def test_doubling_ends_at_its_longest_for_any_number(times: int, wait_s: float) -> None:
    assert brakes.doubled_s(10, times, 300) == wait_s


def test_a_backoff_doubles_from_restart_to_restart() -> None:
    waiting: dict[str, Waiting] = {}
    waits = []
    for now in range(8):
        waiting = brakes.after_restart(waiting, "web:web-0", Backoff(10, 300), float(now))
        waits.append(waiting["web:web-0"].wait_s)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_backoff_of_0_is_none() -> None:
    assert brakes.after_restart({}, "web:web-0", Backoff(0, 0), 1.0) == {}


@pytest.mark.parametrize(("now", "left_s"), [(100, 20), (110, 10), (120, 0), (500, 0)])
def test_what_is_left_of_a_backoff(now: float, left_s: float) -> None:
    waiting = {"web:web-0": Waiting(100, 20)}
    assert brakes.backoff_left_s(waiting, "web:web-0", Ages(now)) == left_s
    assert brakes.backoff_left_s(waiting, "web:web-1", Ages(now)) == 0


def test_a_gap_in_our_clock_moves_a_backoff_too() -> None:
    assert brakes.backoff_left_s({"a": Waiting(100, 20)}, "a", Ages(170, ((160, 50.0),))) == 0
    assert brakes.backoff_left_s({"a": Waiting(100, 20)}, "a", Ages(165, ((160, 50.0),))) == 5


@pytest.mark.parametrize(
    ("budget", "workers", "whole", "share"),
    [
        (Budget(), 1, 3, 3),  # alone it starves nobody
        (Budget(), 2, 3, 2),
        (Budget(), 4, 4, 2),
        (Budget(), 9, 9, 5),
        (Budget(1), 4, 1, 1),
        (Budget(10), 4, 10, 5),
    ],
)
def test_the_budget_and_one_workers_share_of_it(budget: Budget, workers: int, whole: int, share: int) -> None:
    assert Spending().left(budget, workers) == whole
    assert Spending().left_of("web:web-0", budget, workers) == share


def test_spent_restarts_count_for_the_window_and_no_longer() -> None:
    spending = Spending().spend("a", 0.0).spend("b", 50.0)
    assert spending.still_counting(Budget(3, 100), Ages(99)).left(Budget(3, 100), 2) == 1
    assert spending.still_counting(Budget(3, 100), Ages(100)).left(Budget(3, 100), 2) == 2


def test_a_refund_gives_back_that_one_restart() -> None:
    spending = Spending().spend("a", 1.0).spend("b", 2.0).spend("a", 3.0)
    assert spending.refund("a", 3.0).restarts == ((1.0, "a"), (2.0, "b"))
    assert spending.refund("a", 9.0) == spending  # one that was never counted


def worker(index: int, what: str) -> Past:
    """What the panic counts: F fails, R answers right, n is new and not asked yet, w answers wrong but not yet often
    enough, s starts, x is down."""
    running = what in "FRnw"
    return Past(
        f"web:web-{index}",
        WorkerId(f"web:web-{index}", index + 1, index + 1),
        0.0,
        state=State.RUNNING if running or what == "s" else State.FATAL,
        looked=True,
        verdict={"F": Verdict.FAILING, "s": Verdict.STARTING, "n": Verdict.UNKNOWN}.get(what, Verdict.HEALTHY),
        served_since=1.0 if running else None,
        right_ever=what in "FRw",
        answers_right=what == "R",
    )


@pytest.mark.parametrize(
    ("roster", "threshold", "alone_to_blame"),
    [
        ("FRRR", 0.5, True),
        ("FFRR", 0.5, True),
        ("FFFR", 0.5, False),
        ("FFFF", 0.5, False),
        ("FR", 0.5, True),
        ("FF", 0.5, False),
        ("F", 0.5, False),  # nobody to compare it with
        ("F", 1.0, True),
        ("Fwww", 0.5, False),  # the first of all to be wrong often enough
        ("Fwwn", 0.5, False),
        ("FRwn", 0.5, False),  # 1 of 3 peers
        ("FRRn", 0.5, True),
        ("Fxxx", 0.5, False),
        ("FsRR", 0.5, True),
        ("FRR", 0.2, False),
        ("RRR", 0.5, True),
        ("", 0.5, True),
    ],
)
def test_who_is_to_blame(roster: str, threshold: float, alone_to_blame: bool) -> None:
    assert (blame([worker(*entry) for entry in enumerate(roster)], threshold) == "") is alone_to_blame


def test_panic_is_over_when_somebody_answers_right_and_nobody_fails() -> None:
    panic = Panic().after("too many", [worker(0, "F")], 5.0).with_canary(65.0)
    assert panic.after("", [worker(0, "s")], 70.0) == Panic(None, 65.0, 1)
    assert panic.after("", [worker(0, "R"), worker(1, "F")], 70.0).canaries == 1
    assert panic.after("", [worker(0, "R")], 70.0) == Panic()


@pytest.mark.parametrize(("canaries", "wait_s"), [(1, 120), (2, 240), (3, 300), (9, 300)])
def test_between_two_canaries(canaries: int, wait_s: float) -> None:
    panic = Panic(0.0, 1000.0, canaries)
    assert not panic.canary_due(Ages(1000.0 + wait_s - 1))
    assert panic.canary_due(Ages(1000.0 + wait_s))
