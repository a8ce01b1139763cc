"""The tables of :mod:`benchmarks.cost`, from its runs. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import NONE, Table

Run = Mapping[str, Any]
Points = dict[int, float]  # number of workers -> figure

REAL, STAND_IN = "uvicorn", "stand-in"
LOOKS = "looks"
QUICK_PULSE_S, PULSE_S = 0.2, 1.0  # of the listeners `quick` and `ours`
MIB, KIB = 2**20, 2**10

MOST_CPU_US, MOST_LOOK_S, MOST_BYTES = 100, 0.150, 20_000
LOOK_OF = 256
STRAIGHT = 0.25  # of the figure may the largest number be off the line through the smaller ones


def tables(runs: Sequence[Run], titles: Mapping[str, str]) -> list[Table]:
    """Those of which there are runs. ``titles``: of the listeners."""
    well = [run for run in runs if "error" not in run]
    if not well:
        return []
    return [_limits(well), _beside(well, titles), _sizes(well, titles), _looks(well), _growth(well)]


# --- figures --------------------------------------------------------------------------------------------------------


def points(runs: Sequence[Run], kind: str, listener: str, key: str) -> Points:
    """The figure ``key`` by number of workers; of several runs the median."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if run.get("kind") == kind and run.get("listener") == listener and run.get(key) is not None:
            found.setdefault(run["workers"], []).append(run[key])
    return {size: statistics.median(values) for size, values in sorted(found.items())}


def look_cpu(runs: Sequence[Run], kind: str) -> Points:
    """CPU seconds of one look at the pulse, by number of workers: what ``quick`` takes in a second above ``ours``,
    divided by how many looks more it makes. What comes with a TICK both have, so it is not in it."""
    shares = [
        {
            run["workers"]: run["listener_cpu_s"] / run["window_s"]
            for run in runs
            if run.get("kind") == kind and run.get("listener") == listener and "window_s" in run
        }
        for listener in ("ours", "quick")
    ]
    more = 1 / QUICK_PULSE_S - 1 / PULSE_S
    return {size: (shares[1][size] - shares[0][size]) / more for size in sorted(shares[0].keys() & shares[1].keys())}


def missed(runs: Sequence[Run], kind: str, listener: str) -> str:
    """Where not all were pinned, in words: then the figures are of fewer workers than they say."""
    for run in runs:
        of_it = (run.get("kind"), run.get("listener")) == (kind, listener)
        if of_it and run.get("pinned", run["workers"]) < run["workers"]:
            return f"no: {run['pinned']} of {run['workers']} pinned"
    return ""


def per_worker(of: Points) -> float | None:
    """What one worker more takes: the difference between the most and the fewest workers. None: only one number."""
    if len(of) < 2:
        return None
    fewest, most = min(of), max(of)
    return (of[most] - of[fewest]) / (most - fewest)


def steps(of: Points) -> list[tuple[int, int, float]]:
    """(from, to, per worker) between neighbouring numbers of workers."""
    sizes = sorted(of)
    return [(low, high, (of[high] - of[low]) / (high - low)) for low, high in itertools.pairwise(sizes)]


def off_the_line(of: Points) -> float | None:
    """By which share the figure of the most workers lies above the straight line through all smaller numbers (least
    squares). None with fewer than three numbers: two are always on a line."""
    if len(of) < 3:
        return None
    most = max(of)
    smaller = {size: value for size, value in of.items() if size != most}
    slope, start = statistics.linear_regression(list(smaller), list(smaller.values()))
    expected = start + slope * most
    return of[most] / expected - 1 if expected > 0 else None


# --- tables ---------------------------------------------------------------------------------------------------------


def _limits(runs: Sequence[Run]) -> Table:
    table = Table(
        "What must be reached",
        ["what", "workers", "of", "measured", "limit", "reached"],
        notes=[
            "Per worker: the figure of the most workers less that of the fewest, divided by how many more they are.",
            "CPU: what the whole listener takes at a pulse of 0.2 s above what it takes at 1 s, for each look more.",
            "Memory: resident (VmRSS), at the default settings and with --path.",
            "A look: all that the listener does in one, by its own histogram (mean, and the smallest bound of it that",
            "holds all of them), and each look of a Watch by itself in the process of the benchmark (median, longest).",
            "Linear: how far the most workers lie off the straight line through the smaller numbers.",
        ],
    )
    for kind in (REAL, STAND_IN):
        cpu = look_cpu(runs, kind)
        short = missed(runs, kind, "ours") or missed(runs, kind, "quick")
        _limit(table, "CPU, us a worker and look", kind, cpu, 1e6, MOST_CPU_US, short)
        for listener, called in (("ours", "memory, bytes a worker"), ("path", "memory, bytes a worker, --path")):
            its = points(runs, kind, listener, "rss_bytes")
            _limit(table, called, kind, its, 1, MOST_BYTES, missed(runs, kind, listener))
        for listener, key, called in (
            (LOOKS, "look_mean_s", "a look, ms, mean"),
            (LOOKS, "looks_all_within_s", "a look, ms, all within"),
            ("own pulse", "look_median_s", "a look, ms, median, own process"),
            ("own pulse", "look_longest_s", "a look, ms, longest, own process"),
        ):
            value = points(runs, kind, listener, key).get(LOOK_OF)
            if value is not None:
                limit, reached = f"{1000 * MOST_LOOK_S:g}", missed(runs, kind, listener) or _yes(value <= MOST_LOOK_S)
                table.add(called, LOOK_OF, kind, f"{1000 * value:.1f}", limit, reached)
        off = off_the_line(cpu)
        if off is not None:
            share, limit = f"{100 * off:+.0f} %", f"{100 * STRAIGHT:+.0f} %"
            table.add("CPU of a look, off the line", _range(cpu), kind, share, limit, _yes(off <= STRAIGHT))
    return table


def _limit(table: Table, called: str, kind: str, of: Points, times: float, limit: float, short: str) -> None:
    value = per_worker(of)
    if value is not None:
        reached = short or _yes(times * value <= limit)
        table.add(called, _range(of), kind, f"{times * value:.1f}", f"{limit:g}", reached)


def _beside(runs: Sequence[Run], titles: Mapping[str, str]) -> Table:
    peers_at = min((run["workers"] for run in runs if run.get("kind") == REAL and "workers" in run), default=0)
    table = Table(
        f"Beside the peers: {peers_at} uvicorns, TICK_5, nobody asks anything",
        ["listener", "CPU, %", "supervisord, %", "workers, %", "VmRSS, MiB", "Pss, MiB", "private, MiB", "threads"],
        notes=[
            "CPU in percent of one core. Of supervisord and workers: all that they take, so compare with `nobody`.",
            "At each TICK httpok asks the shared socket once, supervisor_checks once for each worker of the group;",
            "neither can know who answers.",
        ],
    )
    for run in runs:
        listener = run.get("listener", "")
        if (
            run.get("kind") == REAL
            and run.get("workers") == peers_at
            and "window_s" in run
            and listener not in (LOOKS, "quick")
        ):
            table.add(titles.get(listener, listener), *_cpu(run), *_memory(run), run.get("threads", NONE))
    return table


def _sizes(runs: Sequence[Run], titles: Mapping[str, str]) -> Table:
    table = Table(
        "By the number of workers, TICK_5, with the rpcinterface",
        ["listener", "workers", "of", "start, s", "CPU, %", "supervisord, %", "workers, %", "VmRSS, MiB", "Pss, MiB",
         "private, MiB", "descriptors"],
        notes=[
            "Start: from the listener's spawn to the last worker pinned; else how many were pinned in four minutes.",
            "CPU in percent of one core.",
        ],
    )  # fmt: skip
    for run in runs:
        if run.get("listener") in ("nobody", "ours", "path", "quick") and "window_s" in run:
            start = NONE if run["listener"] == "nobody" else f"{run['pinned']} of {run['workers']}"
            start = f"{run['start_s']:.2f}" if "start_s" in run else start
            name = titles.get(run["listener"], run["listener"])
            row = [name, run["workers"], run["kind"], start, *_cpu(run), *_memory(run), run.get("descriptors", NONE)]
            table.add(*row)
    return table


def _looks(runs: Sequence[Run]) -> Table:
    table = Table(
        "One look at the pulse",
        ["workers", "of", "looks", "mean, ms", "all within, ms", "CPU, ms", "system calls", "own median, ms",
         "own longest, ms", "own CPU, ms", "full, median, ms"],
        notes=[
            "Up to `system calls`: of running listeners, pulse 0.2 s. CPU: as above. System calls: of all (strace).",
            "own: Watch.look alone, in the process of the benchmark; full: with --path, as at a TICK.",
        ],
    )  # fmt: skip
    by: dict[tuple[str, int], dict[str, Run]] = {}
    for run in runs:
        if "listener" in run:
            by.setdefault((run["kind"], run["workers"]), {})[run["listener"]] = run
    cpu = {kind: look_cpu(runs, kind) for kind in (REAL, STAND_IN)}
    for (kind, size), its in by.items():
        listener, own, full = its.get(LOOKS, {}), its.get("own pulse", {}), its.get("own full", {})
        if not (listener or own or full):
            continue
        table.add(
            size,
            kind,
            listener.get("looks", NONE),
            _ms(listener, "look_mean_s"),
            _ms(listener, "looks_all_within_s"),
            f"{1000 * cpu[kind][size]:.2f}" if size in cpu[kind] else NONE,
            f"{listener['system_calls_a_look']:.0f}" if "system_calls_a_look" in listener else NONE,
            *[_ms(own, key) for key in ("look_median_s", "look_longest_s", "look_cpu_s")],
            _ms(full, "look_median_s"),
        )
    return table


def _growth(runs: Sequence[Run]) -> Table:
    figures: Sequence[tuple[str, str, str, float]] = (
        ("system calls of a look", LOOKS, "system_calls_a_look", 1),
        ("a look, own median, us", "own pulse", "look_median_s", 1e6),
        ("VmRSS, KiB", "ours", "rss_bytes", 1 / KIB),
        ("private, KiB", "ours", "private_bytes", 1 / KIB),
        ("VmRSS with --path, KiB", "path", "rss_bytes", 1 / KIB),
        ("start, ms", "ours", "start_s", 1000),
    )
    table = Table("Growth with each worker more", ["figure", "of", "from", "to", "per worker"])
    for kind in (REAL, STAND_IN):
        for low, high, slope in steps(look_cpu(runs, kind)):
            table.add("CPU of a look, us", kind, low, high, f"{1e6 * slope:.2f}")
    for called, listener, key, times in figures:
        for kind in (REAL, STAND_IN):
            for low, high, slope in steps(points(runs, kind, listener, key)):
                table.add(called, kind, low, high, f"{times * slope:.2f}")
    return table


def _cpu(run: Run) -> list[str]:
    parts = [run.get(f"{who}_cpu_s") for who in ("listener", "supervisord", "workers")]
    return [NONE if part is None else f"{100 * part / run['window_s']:.3f}" for part in parts]


def _memory(run: Run) -> list[str]:
    found = [run.get(key) for key in ("rss_bytes", "pss_bytes", "private_bytes")]
    return [NONE if value is None else f"{value / MIB:.1f}" for value in found]


def _ms(run: Run, key: str) -> str:
    value = run.get(key)
    return NONE if value is None else f"{1000 * value:.2f}"


def _range(of: Points) -> str:
    return f"{min(of)} to {max(of)}"


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"
