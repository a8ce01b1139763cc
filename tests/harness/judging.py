"""What the tests ask of a site again and again: who was replaced, who was left alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from harness.supervisord import Supervisord
from harness.waiting import wait_for


def replaced_only(site: Supervisord, before: dict[str, int], *names: str) -> bool:
    """These workers have new pids and are RUNNING; AssertionError as soon as any other was touched."""
    now = site.pids()
    untouched = {name: pid for name, pid in before.items() if name not in names}
    assert {name: now[name] for name in untouched} == untouched, f"another worker was touched: {before} -> {now}"
    states = site.states()
    return all(now[name] not in {0, before[name]} and states[name] == "RUNNING" for name in names)


def wait_replaced_only(site: Supervisord, before: dict[str, int], *names: str, deadline_s: float = 60.0) -> float:
    """Wait for :func:`replaced_only` and for the listener's word that each is healthy; how long that took."""
    began = time.monotonic()
    wait_for(lambda: replaced_only(site, before, *names), deadline_s, f"{names} replaced")
    for name in names:
        replaced = site.wait_event("replaced", deadline_s, worker=name, old_pid=before[name])
        assert replaced["pid"] == site.pids()[name]
    restarted = [(event["worker"], event["pid"]) for event in site.events("restart")]
    assert sorted(restarted) == sorted((name, before[name]) for name in names)
    assert site.events("not-json") == []
    return time.monotonic() - began


def verdicts(site: Supervisord) -> dict[str, str]:
    """Name -> the last verdict that the listener logged for that worker."""
    return {entry["worker"]: entry["verdict"] for entry in site.events("verdict")}


def wait_healthy(site: Supervisord, deadline_s: float = 60.0) -> dict[str, int]:
    """Wait until the listener called every worker healthy; name -> pid."""
    pids = site.pids()
    wait_for(lambda: all(verdicts(site).get(name) == "healthy" for name in pids), deadline_s, "all judged healthy")
    return pids


@contextlib.contextmanager
def nobody_restarted(site: Supervisord, *, same_pids: bool = True) -> Iterator[dict[str, int]]:
    """What happens inside leads to no restart by the listener, and (mostly) to no new pid at all."""
    before = site.pids()
    yield before
    assert site.events("restart") == []
    if same_pids:
        assert site.pids() == before
        assert site.all_running()
    assert site.events("not-json") == []
