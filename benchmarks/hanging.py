"""One worker is hung by a request to it: when is its pid gone, when is there another, when does that one serve?"""

from __future__ import annotations

import random
import time
from typing import Any

from harness import processes

from benchmarks.peers.base import Site, Unwell

EVERY_S = 0.01  # between two looks: what a time may be too long by
WELL_S = 1.0  # of a site before something is hung in it: some peers see a worker only after its first beat
PHASE_S = 1.5  # and up to so much more by chance, so that each run meets another moment of the peer's own period
ASK_S = 0.2  # between two requests that keep the connection until then; the shortest keep-alive is gunicorn's, 2 s


def hang(site: Site, kind: str, cap_s: float, chance: random.Random) -> dict[str, Any]:
    """Hang one worker of a site where all is well, and watch for ``cap_s`` at most.

    Times are seconds from the moment at which the request that hangs is sent; None: not within ``cap_s``.
    ``gone_s``: the hung pid is gone. ``new_pid_s``: the process is there that later serves. ``serving_s``: it watches
    the listening socket, and as many workers serve as before. ``answered``: it has then answered a request. ``right``:
    the hung pid went. ``others``: how many pids went that were not hung. Raises :class:`Unwell` and what the site does.
    """
    victim = chance.choice(sorted(site.settle()))
    connection = site.connect_to(victim)
    try:
        # To connect to one of them the others are stopped for a moment, of which their parent is told: gunicorn's
        # arbiter then looks at once, and a second later again. So that is over long before the worker is hung.
        end = time.monotonic() + WELL_S + chance.uniform(0, PHASE_S)
        while time.monotonic() < end:
            connection.ask("/pid")
            time.sleep(min(ASK_S, max(0.0, end - time.monotonic())))
        before, known = site.workers(), site.below()
        if len(before) != site.count or victim not in before:
            raise Unwell(f"before anything was hung: {len(before)} of {site.count} workers")
        began = time.monotonic()
        connection.send_only(f"/hang/{kind}")
        found = _watch(site, victim, before, known, began, cap_s)
    finally:
        connection.close()  # not earlier: for the handler it would be the end of its request
    return {"hung_pid": victim, **found}


def _watch(site: Site, victim: int, before: set[int], known: set[int], began: float, cap_s: float) -> dict[str, Any]:
    first_seen: dict[int, float] = {}
    gone_s: float | None = None
    new: set[int] = set()
    serving_s: float | None = None
    while (now_s := time.monotonic() - began) < cap_s:
        for pid in site.below() - known:
            first_seen.setdefault(pid, round(now_s, 3))
        if gone_s is None and not processes.alive(victim):
            gone_s = round(now_s, 3)
        if gone_s is not None:
            serving = site.workers()
            new = serving - before
            if new and len(serving) >= len(before):
                serving_s = round(time.monotonic() - began, 3)
                break
            if not site.alive():
                break
        time.sleep(EVERY_S)
    return {
        "gone_s": gone_s,
        "new_pid_s": min((first_seen[pid] for pid in new if pid in first_seen), default=None) if serving_s else None,
        "serving_s": serving_s,
        "answered": bool(serving_s) and all(site.answers(pid) for pid in new),
        "right": gone_s is not None,
        "others": sum(not processes.alive(pid) for pid in before - {victim}),
        "ended": not site.alive(),
    }
