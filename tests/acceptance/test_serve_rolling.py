"""Rolling stops of four workers under at least 100,000 requests of each kind: none fails, five times over.

Beside it, in the same run, what uvicorn itself loses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.serve_load import rolled
from integration.serve_site import opened

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

WORKERS, REQUESTS = 4, 100_000


@pytest.mark.parametrize("repeat", range(5))
def test_serve_drops_nothing(tmp_path: Path, figures: Callable[..., None], repeat: int) -> None:
    with opened(tmp_path, "tcp", ["--no-access-log"]) as site:
        load = rolled(site, WORKERS, rolls=2 * WORKERS, requests=REQUESTS)
    figures(repeat=repeat, fresh=load.fresh, kept=load.kept, stops=len(load.codes), longest_stop_s=max(load.stops_s))
    assert load.failed == []
    assert min(load.fresh, load.kept) >= REQUESTS
    assert set(load.codes) == {-15}


def test_what_uvicorn_itself_loses(tmp_path: Path, figures: Callable[..., None]) -> None:
    """No bound is claimed on another project's losses; but a connection is never refused, with either."""
    with opened(tmp_path, "tcp", ["--no-access-log"]) as site:
        load = rolled(site, WORKERS, rolls=2 * WORKERS, requests=5_000, verb=["uvicorn"])
    fresh = sum(text.startswith("fresh") for text in load.failed)
    figures(fresh=load.fresh, kept=load.kept, stops=len(load.codes), fresh_failed=fresh,
            kept_failed=len(load.failed) - fresh)  # fmt: skip
    assert not [text for text in load.failed if "Refused" in text]
