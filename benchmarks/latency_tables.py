"""The tables of :mod:`benchmarks.latency`, from its runs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paired import Difference, difference, percents
from benchmarks.report import NONE, Table

Run = Mapping[str, Any]

PORT = "uvicorn --port"
MOST_PERCENT = 1.0  # of the throughput may being watched cost
WITHIN = 1.5  # times the median latency through --port

NOTES = [
    "All are medians of the slices; in brackets an interval that holds the true median with 95 % (sign test).",
    "CPU a request: of supervisord, workers and listener together.",
    "Listener: its mean share of all cores while it watches.",
    "shown: the whole interval says that being watched costs less than 1 % of throughput.",
]


def tables(runs: Sequence[Run], titles: Mapping[str, str]) -> list[Table]:
    """Those of which there are runs. ``titles``: of the ways of being watched."""
    well = [run for run in runs if "error" not in run]
    made = []
    if any(run.get("part") == "watched" for run in runs):
        made.append(_cost(runs, well, titles))
    if any(run.get("part") == "latency" for run in runs):
        made.append(_latency(well, titles))
    if any(run.get("part") == "beside" for run in runs):
        made.append(_beside(runs, well))
    if any(run.get("part") == "keepalive" for run in runs):
        made.append(_keepalive(runs, well))
    return made


# --- watched --------------------------------------------------------------------------------------------------------


def pairs_of(runs: Sequence[Run], part: str, variant: str) -> list[tuple[Run, Run]]:
    """(without, with) of each pair both of whose slices were measured."""
    found: dict[int, dict[bool, Run]] = {}
    for run in runs:
        if run.get("part") == part and run["variant"] == variant and "per_second" in run:
            found.setdefault(run["pair"], {})[run["watched"]] = run
    return [(pair[False], pair[True]) for _, pair in sorted(found.items()) if len(pair) == 2]


def paired_difference(pairs: Sequence[tuple[Run, Run]], key: str) -> Difference | None:
    """In percent of the slice without."""
    return difference(percents([run[key] for run, _ in pairs], [run[key] for _, run in pairs]))


def _cost(runs: Sequence[Run], well: Sequence[Run], titles: Mapping[str, str]) -> Table:
    table = Table(
        "What being watched costs, under full load",
        ["watched", "pairs", "a second without", "with", "difference, %", "< 1 %", "CPU a request, %", "listener, %",
         "failed"],
        notes=list(NOTES),
    )  # fmt: skip
    for variant, title in titles.items():
        pairs = pairs_of(well, "watched", variant)
        if not pairs:
            continue
        without, watched = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        throughput = paired_difference(pairs, "per_second")
        cpu = paired_difference(pairs, "server_cpu_us_a_request")
        assert throughput is not None
        assert cpu is not None
        table.add(
            title,
            len(pairs),
            f"{_median(without, 'per_second'):.0f}",
            f"{_median(watched, 'per_second'):.0f}",
            throughput.text(),
            "shown" if throughput.above(-MOST_PERCENT) else "not shown",
            cpu.text(),
            f"{statistics.fmean(run['listener_cpu_percent'] for run in watched):.3f}",
            _failed(runs, part="watched", variant=variant),
        )
    return table


def _latency(well: Sequence[Run], titles: Mapping[str, str]) -> Table:
    table = Table(
        "Latency under full load, not watched / watched, in ms",
        ["watched", "p50", "p99", "p99.9"],
        notes=["Medians of the slices. Under full load they are the depth of the queue, not the work."],
    )
    for variant, title in titles.items():
        pairs = pairs_of(well, "latency", variant)
        if pairs:
            sides = [[pair[side] for pair in pairs] for side in (0, 1)]
            table.add(
                title, *[" / ".join(f"{_median(side, key):.2f}" for side in sides)
                         for key in ("p50_ms", "p99_ms", "p999_ms")]
            )  # fmt: skip
    return table


# --- side by side ---------------------------------------------------------------------------------------------------


def _beside(runs: Sequence[Run], well: Sequence[Run]) -> Table:
    table = Table(
        "Side by side under full load",
        ["server", "rounds", "a second", "p50 ms", "p99 ms", "p99.9 ms", f"of {PORT}, %", "failed"],
        notes=["Medians of the rounds; the difference is that of each round, in brackets its interval (95 %)."],
    )
    for server, its in _by_server(well, "beside").items():
        table.add(
            server,
            len(its),
            f"{_median(its, 'per_second'):.0f}",
            *[f"{_median(its, key):.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")],
            _against_port(well, server),
            _failed(runs, part="beside", server=server),
        )
    return table


def _against_port(well: Sequence[Run], server: str) -> str:
    by_server = {name: {run["round"]: run for run in its} for name, its in _by_server(well, "beside").items()}
    port = by_server.get(PORT, {})
    rounds = sorted(port.keys() & by_server[server].keys())
    found = difference(
        percents(
            [port[number]["per_second"] for number in rounds],
            [by_server[server][number]["per_second"] for number in rounds],
        )
    )
    return NONE if found is None or server == PORT else found.text()


def _keepalive(runs: Sequence[Run], well: Sequence[Run]) -> Table:
    table = Table(
        "One keep-alive connection, one worker, one request at a time",
        ["server", "rounds", "p50 ms", "p99 ms", "a second", f"p50, times {PORT}", f"within {WITHIN:g}", "failed"],
        notes=[
            "Medians of the rounds; the ratio is that of each round.",
            "Without the rpcinterface or serve, Nagle's algorithm meets the client's delayed ACK, at each request.",
        ],
    )
    for server, its in _by_server(well, "keepalive").items():
        times = times_port(well, server)
        table.add(
            server,
            len(its),
            *[f"{_median(its, key):.3f}" for key in ("p50_ms", "p99_ms")],
            f"{_median(its, 'per_second'):.0f}",
            NONE if times is None else f"{times:.2f}",
            NONE if times is None else "yes" if times <= WITHIN else "no",
            _failed(runs, part="keepalive", server=server),
        )
    return table


def times_port(well: Sequence[Run], server: str) -> float | None:
    """The median over the rounds of this server's p50 in times of ``--port``'s; None: no round has both."""
    servers = _by_server(well, "keepalive")
    port = {run["round"]: run["p50_ms"] for run in servers.get(PORT, [])}
    found = [run["p50_ms"] / port[run["round"]] for run in servers.get(server, []) if port.get(run["round"])]
    return statistics.median(found) if found else None


def _by_server(runs: Sequence[Run], part: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.get("part") == part:
            found.setdefault(run["server"], []).append(run)
    return found


def _median(runs: Sequence[Run], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def _failed(runs: Sequence[Run], **of: str) -> str:
    """Requests that failed, and runs that could not be made."""
    its = [run for run in runs if all(run.get(key) == value for key, value in of.items())]
    slices = sum("error" in run for run in its)
    return f"{sum(run.get('failed', 0) for run in its)}" + (f", {slices} runs" if slices else "")
