"""The tables of ``recovery``, from its runs. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from benchmarks.report import NONE, Table, summary

Run = dict[str, Any]

HUNG = [
    "peer",
    "limit",
    "runs",
    "shortest",
    "median",
    "longest",
    "spread",
    "serving",
    "answered",
    "right pid",
    "others ended",
    "failed runs",
]
WRONG = ["peer", "limit", "seconds", "requests", "failed", "busy", "wrongly ended"]


def tables(runs: Sequence[Run]) -> list[Table]:
    """One for each kind of hang, one for each load that nobody must be ended for."""
    hung = [run for run in runs if run.get("part") == "hang"]
    wrong = [run for run in runs if run.get("part") == "wrong"]
    found = [_hung(kind, [run for run in hung if run["kind"] == kind]) for kind in _each(run["kind"] for run in hung)]
    return [
        *found,
        *[_wrong(load, [run for run in wrong if run["load"] == load]) for load in _each(run["load"] for run in wrong)],
    ]


def _hung(kind: str, runs: Sequence[Run]) -> Table:
    table = Table(f"From hang to a new pid: a worker that hangs in '{kind}'", HUNG)
    table.notes = [
        "Seconds from the request that hangs to the process that serves in its place (shortest to spread), and to the",
        "moment when as many workers serve as before (serving, median). Answered: how many of the new ones then",
        "answered a request. Right pid: in how many runs the hung one went.",
        "A peer that replaced nobody at one limit was not tried at longer ones.",
    ]
    for (title, limit_s), of_row in _rows(runs):
        if refused := [run for run in of_row if "refused" in run]:
            table.add(title, _limit(limit_s), 0, f"refused: {refused[0]['refused']}", *[NONE] * 8)
            continue
        done = [run for run in of_row if "error" not in run]
        failed = len(of_row) - len(done)
        came = [run for run in done if run["serving_s"] is not None]
        answered = f"{sum(run['answered'] for run in came)} of {len(came)}" if came else NONE
        right = f"{sum(run['right'] for run in done)} of {len(done)}"
        others = sum(run["others"] for run in done)
        table.add(title, _limit(limit_s), len(done), *_lasted(done), answered, right, others, failed or NONE)
    return table


def _lasted(done: Sequence[Run]) -> list[str]:
    """Shortest, median, longest and spread to the new pid, and the median until it serves."""
    came = [run for run in done if run["serving_s"] is not None]
    took, serving = summary([run["new_pid_s"] for run in came]), summary([run["serving_s"] for run in came])
    if took is None or serving is None:
        never = f"never in {max(run['cap_s'] for run in done):g} s" if done else NONE
        return [NONE, NONE, never, NONE, NONE]
    if len(came) < len(done):
        never = f"{len(done) - len(came)} never in {max(run['cap_s'] for run in done):g} s"
        return [_s(took.lowest), NONE, never, NONE, NONE]
    return [_s(value) for value in (took.lowest, took.median, took.highest, took.spread, serving.median)]


LOADS = {
    "saturation": (
        "saturated",
        [
            "wrk with 400 connections, half of them kept, half new for each request. Busy: the shares of a core that",
            "the least and the most busy worker had, as far as those of the beginning are still there.",
        ],
    ),
    "blocks": (
        "blocked for half of the limit, again and again",
        ["One request at a time to each worker, which blocks its loop, and the next as soon as it is answered."],
    ),
}


def _wrong(load: str, runs: Sequence[Run]) -> Table:
    what, notes = LOADS[load]
    table = Table(f"Workers that are well and were ended: {what}", WRONG)
    table.notes = [*notes, "A peer that looks at nobody has no row."]
    for (title, limit_s), of_row in _rows(runs):
        for run in of_row:
            if "refused" in run:
                table.add(title, _limit(limit_s), *[NONE] * 4, f"refused: {run['refused']}")
                continue
            if "error" in run:
                table.add(title, _limit(limit_s), *[NONE] * 4, "run failed")
                continue
            busy = " - ".join(f"{share:.2f}" for share in run["busy"]) if load == "saturation" else NONE
            row = [f"{run['seconds']:g}", run["requests"], run["failed"], busy, run["ended"]]
            table.add(title, _limit(limit_s), *row)
    return table


def _rows(runs: Sequence[Run]) -> list[tuple[tuple[str, float | None], list[Run]]]:
    keys = _each((run["title"], run["limit_s"]) for run in runs)
    return [(key, [run for run in runs if (run["title"], run["limit_s"]) == key]) for key in keys]


def _each(values: Iterable[Any]) -> list[Any]:
    seen: dict[Hashable, None] = dict.fromkeys(values)
    return list(seen)


def _limit(limit_s: float | None) -> str:
    return "cannot be set" if limit_s is None else f"{limit_s:g} s"


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"
