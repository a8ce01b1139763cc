"""What is lost while all workers are renewed under load: a rolling restart by us and by the peers, side by side.

Clients of ``tests/harness/load_client.py`` ask without a pause, each over one connection at a time: a new one for each
request, or one that is kept as long as it lasts. Each request counts, and nothing is retried. Meanwhile the peer is
told to renew its workers, again and again, until so many requests are done. A renewal ends when none of the old
processes is there and as many new ones serve.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness.load import KEPT, NEW, Failure, Load

from benchmarks import command
from benchmarks.command import RUN_FAILURES
from benchmarks.environments import Environment
from benchmarks.peers import circus, granian, gunicorn, supervised, uvicorn_workers
from benchmarks.peers.base import Peer, Settings, Site, wait_answer
from benchmarks.report import NONE, Report, Table, say

PEERS: list[Peer] = [
    supervised.OURS_SERVE,
    supervised.OURS_STOCK,
    supervised.SUPERVISOR,
    gunicorn.UVICORN_WORKER,
    gunicorn.OWN_WORKER,
    uvicorn_workers.PEER,
    granian.PEER,
    circus.PEER,
]
OURS = {supervised.OURS_SERVE.name, supervised.OURS_STOCK.name}
CLIENTS = 12  # so that each worker has some keep-alive connections to end; as tests/acceptance/test_rolling.py
RENEWALS = 3  # at least, in each run
BETWEEN = 5_000  # requests between two renewals: some peers are through before a client has noticed
RENEWAL_S, REQUESTS_S = 120.0, 300.0  # deadlines
EVERY_S = 0.02  # between two looks: what a duration may be too long by

Run = dict[str, Any]


class NotRenewed(RuntimeError):  # noqa: N818 - it reads as what it is
    """The peer was told, and its workers are not all new in time."""


def main() -> int:
    """0: measured, whatever came out; 1: some run failed (see the file)."""
    command.end_on_term()
    options = _options()
    report = Report("upgrade", command.told(options))
    command.resume(report, options)
    kept = report.runs[:]
    peers = [peer for peer in PEERS if peer.name in options.only]
    environments = command.prepared(peers, options, report)
    try:
        for peer in [peer for peer in peers if peer.environment in environments]:
            for run in runs(peer, environments[peer.environment], kept, options):
                report.runs.append(run)
                _save(report, options)
    except KeyboardInterrupt:
        return command.INTERRUPTED
    finally:
        _save(report, options)
        command.finish(report, options)
    return 1 if any("error" in run for run in report.runs) else 0


def _save(report: Report, options: argparse.Namespace) -> None:
    """In the order of the peers, also where some were kept."""
    names = [peer.name for peer in PEERS]
    report.runs.sort(key=lambda run: names.index(run["peer"]) if "peer" in run else -1)
    report.tables = tables(report.runs)
    command.save(report, options)


def _options() -> argparse.Namespace:
    parser = command.parser("upgrade", __doc__ or "", PEERS)
    parser.add_argument("--runs", type=int, default=5, help="of ours, for each kind of connection")
    parser.add_argument("--peer-runs", type=int, default=1, help="of the others")
    parser.add_argument("--requests", type=int, default=100_000, help="at least, in each run")
    parser.add_argument("--kinds", nargs="+", choices=[NEW, KEPT], default=[NEW, KEPT], help="of connections")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="processes, each one request at a time")
    return parser.parse_args()


def runs(peer: Peer, environment: Environment, kept: Sequence[Run], options: argparse.Namespace) -> Iterator[Run]:
    """Every run of this peer that is not among those that are ``kept``, each on a site of its own."""
    for kind in options.kinds:
        wanted = options.runs if peer.name in OURS else options.peer_runs
        had = sum((run.get("peer"), run.get("kind")) == (peer.name, kind) for run in kept)
        for number in range(had + 1, wanted + 1):
            row = {"peer": peer.name, "title": peer.title, "how": peer.renewal, "kind": kind}
            try:
                with peer.running(environment, Settings()) as site:
                    run = renewed_under_load(site, kind, options.requests, options.clients)
            except RUN_FAILURES as error:
                run = {"error": f"{type(error).__name__}: {error}"}
            say(f"upgrade: {peer.name}, {kind}, run {number}: {run.get('error') or _short(run)}")
            yield {**row, **run}


def renewed_under_load(site: Site, kind: str, requests: int, clients: int) -> Run:
    """Renew at least :data:`RENEWALS` times, and until so many ``requests`` are done; what became of them.

    Raises :class:`NotRenewed`, and what the site and the load do.
    """
    site.settle()
    wait_answer(site.url)
    renewals_s: list[float] = []
    with Load(site.url, kind, clients=clients) as load:
        while len(renewals_s) < RENEWALS or load.done < requests:
            load.wait_done(load.done + BETWEEN, REQUESTS_S)
            renewals_s.append(renew(site))
        load.wait_done(load.done + BETWEEN, REQUESTS_S)
        result = load.stop()
    return {
        "renewals_s": renewals_s,
        "requests": result.done,
        "failed": result.all_failed,
        **{word.value: result.of(word) for word in Failure},
        "connections": result.connections,
        "per_s": round(result.done / result.seconds),
        "longest_s": round(result.longest_s, 3),
        "pids_that_answered": len(result.answers),
        "examples": result.examples[:10],
    }


def renew(site: Site) -> float:
    """Tell the peer; seconds until no old worker is there and as many new ones serve. Raises :class:`NotRenewed`."""
    before, began = site.workers(), time.monotonic()
    site.renew()
    while True:
        now, below = site.workers(), site.below()
        if len(now) == site.count and not before & below:
            return round(time.monotonic() - began, 2)
        if time.monotonic() - began > RENEWAL_S or not site.alive():
            old = len(before & below)
            raise NotRenewed(f"{old} old workers after {RENEWAL_S:g} s, {len(now)} serve: {site.said()}")
        time.sleep(EVERY_S)


def _short(run: Run) -> str:
    failed = {word.value: run[word.value] for word in Failure if run[word.value]} or "nothing"
    return (
        f"{run['requests']} requests, failed: {failed}, longest {run['longest_s']} s, "
        f"{len(run['renewals_s'])} renewals, {statistics.median(run['renewals_s'])} s each"
    )


# --- tables ---------------------------------------------------------------------------------------------------------

FAILURES = [Failure.REFUSED, Failure.UNANSWERED, Failure.CUT, Failure.TIMEOUT, Failure.WRONG]
COLUMNS = ["peer", "told by", "runs", "requests", "renewals", "failed", *[word.value for word in FAILURES]]
COLUMNS += ["failed each", "longest wait", "duration", "failed runs"]
TITLES = {NEW: "A new connection for each request", KEPT: "Connections that are kept"}


def tables(found: Sequence[Run]) -> list[Table]:
    """One for each kind of connection; the runs of a peer are added up."""
    made = []
    for kind in (NEW, KEPT):
        of_kind = [run for run in found if run.get("kind") == kind]
        if of_kind:
            made.append(_table(TITLES[kind], of_kind))
    return made


def _table(title: str, of_kind: Sequence[Run]) -> Table:
    table = Table(f"All workers renewed under load: {title.lower()}", COLUMNS)
    table.notes = [
        "Unanswered: closed before any byte of the answer; cut: in the middle of it. Failed each: requests for each",
        "renewal of all four workers. Longest wait: of one request, in seconds. Duration: of one renewal, in seconds,",
        "median (shortest - longest).",
    ]
    for name in dict.fromkeys(run["title"] for run in of_kind):
        of_row = [run for run in of_kind if run["title"] == name]
        done = [run for run in of_row if "error" not in run]
        how, broken = of_row[0]["how"], len(of_row) - len(done) or NONE
        if not done:
            table.add(name, how, 0, *[NONE] * (len(COLUMNS) - 4), broken)
            continue
        took_s = [took_s for run in done for took_s in run["renewals_s"]]
        failed = sum(run["failed"] for run in done)
        table.add(
            name,
            how,
            len(done),
            sum(run["requests"] for run in done),
            len(took_s),
            failed,
            *[sum(run[word.value] for run in done) for word in FAILURES],
            f"{failed / len(took_s):.2f}",
            f"{max(run['longest_s'] for run in done):.2f}",
            f"{statistics.median(took_s):.1f} ({min(took_s):.1f} - {max(took_s):.1f})",
            broken,
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
