"""Twelve faults in every run, the whole of it among the acceptance tests; by hand: ``python3 tests/faults``."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable

import pytest

from faults.campaign import Campaign, as_object
from faults.plan import SOCKETS

SEED = int(os.environ.get("FAULTS_SEED", "13"))  # silent and failing, a spin, five kinds of trouble around


def play(seed: int, faults: int, figures: Callable[..., None]) -> None:
    print(f"seed {seed}")  # before anything can go wrong
    sockets = SOCKETS if shutil.which("openssl") else SOCKETS[:2]
    campaign = Campaign(seed, faults, sockets)
    summary = campaign.run()
    figures(**as_object(campaign, 0.0))
    assert summary.wrong == []
    assert summary.right + summary.void == summary.faults == faults


def test_twelve_faults(figures: Callable[..., None]) -> None:
    play(SEED, 12, figures)


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_two_hundred_faults(figures: Callable[..., None]) -> None:
    play(random.SystemRandom().randrange(10**6), 210, figures)
