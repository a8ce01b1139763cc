"""Every metric, once. Pure; docs/metrics.rst is generated from it (docs/generate_metrics.py).

Names are after Prometheus' conventions (prometheus.io, "Metric and label naming"): base units, the unit and then
``_total`` of a counter at the end. Every label value is one of a closed set, or a name of supervisord's.

A worker is labelled by supervisord's name (``group:name``) and not by its pid: a new pid begins its counters anew,
which ``rate()`` and ``increase()`` take for the reset that it is, and nothing is left behind of the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_uvicorn.ledger import Reason
from supervisor_uvicorn.model import Answer, Verdict

PREFIX = "supervisor_uvicorn_"

OTHER = "other"
"""Stands for every value that is in none of the sets below, so that a series is neither lost nor one too many."""

LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""A loop that is well answers in under 1 ms; ``silent_after`` is 30 s by default."""

LOOK_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Some 50 us a worker while all are well; nothing in a look waits, so that the upper ones are a machine in trouble."""

VERDICTS = tuple(verdict.value for verdict in Verdict)
REASONS = tuple(reason.value for reason in Reason)
ANSWERS = tuple(answer.value for answer in Answer)

BRAKES = (
    # in the order of policy.py's table; ``budget`` is told as ``suspended``
    *("paused", "traced", "stuck", "in_doubt", "rolling", "suspended", "sick", "state", "starting", "silent", "path"),
    *("panic", "trial", "last_serving", "max_unavailable", "backoff", "dry_run"),
    # with which a remedy is called off (remedy.py, helpers.py)
    *("socket", "supervisord", "unknown", "refused", "stopping"),
    OTHER,
)

EVENTS = (
    *("TICK_5", "TICK_60", "TICK_3600", "REMOTE_COMMUNICATION"),
    *("PROCESS_STATE_STARTING", "PROCESS_STATE_RUNNING", "PROCESS_STATE_BACKOFF", "PROCESS_STATE_STOPPING"),
    *("PROCESS_STATE_EXITED", "PROCESS_STATE_STOPPED", "PROCESS_STATE_FATAL", "PROCESS_STATE_UNKNOWN"),
    *("SUPERVISOR_STATE_CHANGE_RUNNING", "SUPERVISOR_STATE_CHANGE_STOPPING"),
    OTHER,
)
"""supervisor 4.3.0, events.py ``EventTypes``: those that a listener of ours is told to ask for."""

ERRORS = (
    *("board", "descriptors", "exit_on", "explain", "given up", "in doubt", "intentions", "lock", "metrics", "nobody"),
    *("not pinned", "notify", "request", "self test", "settings", "stuck", "supervisord"),
    OTHER,
)
"""``reason`` of the log's ``error`` lines."""

CHANNELS = ("command", "url")
DELIVERIES = ("sent", "failed", "dropped")


@dataclass(frozen=True)
class Metric:
    """One metric. ``kind`` is ``gauge``, ``counter``, ``histogram`` or ``summary`` (sum and count alone).

    ``values`` are all that the last label can be, where that is a closed set. ``absent`` says when there is no such
    series: what is not known is absent, and never 0.
    """

    short: str  # without the prefix
    kind: str
    labels: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    absent: str = ""

    @property
    def name(self) -> str:
        return PREFIX + self.short

    @property
    def unit(self) -> str:
        """``seconds``, ``bytes``, or "" for a plain number."""
        words = self.short.removesuffix("_total").split("_")
        return words[-1] if words[-1] in ("seconds", "bytes") else ""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a scrape has of it."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (f"{self.name}_sum", f"{self.name}_count") if self.kind == "summary" else (self.name,)


_NO_PROCESS = "while it has no process that the kernel shows"
_NOT_MEASURED = "while it has no process, or that cannot be read of it"
_NO_PATH = "where no `path` is set"
_W = ("program", "worker")
_P = ("program",)

WORKER_UP = Metric(
    "worker_up",
    "gauge",
    _W,
    "1 if the worker is held to be healthy, 0 if not.",
    absent="while an operator has it STOPPED",
)
WORKER_VERDICT = Metric(
    "worker_verdict",
    "gauge",
    (*_W, "verdict"),
    "1 for what is held of the worker, 0 for every other verdict.",
    VERDICTS,
    absent="while an operator has it STOPPED",
)
WORKER_LAG = Metric(
    "worker_lag_seconds",
    "histogram",
    _W,
    "Event-loop lag: how long each pulse lay unread in the connection held to the worker. One observation a pulse.",
    buckets=LAG_BUCKETS_S,
    absent=_NO_PROCESS,
)
WORKER_PROBE_SECONDS = Metric(
    "worker_probe_seconds",
    "summary",
    _W,
    "How long the HTTP probes took that the worker was asked.",
    absent=f"{_NO_PATH}, and {_NO_PROCESS}",
)
WORKER_PROBES = Metric(
    "worker_probes_total",
    "counter",
    (*_W, "outcome"),
    "HTTP probes by outcome. busy: uvicorn's own --limit-concurrency answer. unasked: it never read the request.",
    ANSWERS,
    absent=f"{_NO_PATH}, and {_NO_PROCESS}",
)
WORKER_RESTARTS = Metric(
    "worker_restarts_total",
    "counter",
    (*_W, "reason"),
    "Restarts of this name by this listener, since the listener started. Those of others are not in it.",
    REASONS,
)
WORKER_RSS = Metric(
    "worker_resident_memory_bytes", "gauge", _W, "Resident memory of the worker and its helpers.", absent=_NOT_MEASURED
)
WORKER_CPU = Metric(
    "worker_cpu_seconds_total", "counter", _W, "User and system CPU time of the worker.", absent=_NOT_MEASURED
)
WORKER_CONNECTIONS = Metric(
    "worker_open_connections",
    "gauge",
    _W,
    "Connections that the worker has accepted and not closed, the listener's own among them.",
    absent=_NOT_MEASURED,
)
WORKER_FDS = Metric("worker_open_fds", "gauge", _W, "Open file descriptors of the worker.", absent=_NOT_MEASURED)
WORKER_MAX_FDS = Metric(
    "worker_max_fds", "gauge", _W, "The soft limit of the worker's open file descriptors.", absent=_NOT_MEASURED
)
WORKER_START = Metric(
    "worker_start_time_seconds",
    "gauge",
    _W,
    "When the worker's process started, in seconds since 1970.",
    absent=_NOT_MEASURED,
)
WORKER_HELPERS = Metric(
    "worker_helpers",
    "gauge",
    _W,
    "Processes that descend from the worker and are there.",
    absent=_NOT_MEASURED,
)

PROGRAM_WORKERS = Metric(
    "program_workers",
    "gauge",
    (*_P, "verdict"),
    "Workers by verdict. Those that an operator has STOPPED are not counted.",
    VERDICTS,
)
PROGRAM_QUEUE = Metric(
    "program_accept_queue_length",
    "gauge",
    _P,
    "Connections that wait to be accepted at the listening socket; of several sockets, at the fullest.",
    absent="where the kernel does not show the socket",
)
PROGRAM_QUEUE_LIMIT = Metric(
    "program_accept_queue_limit",
    "gauge",
    _P,
    "How many may wait there, before the kernel refuses or drops more.",
    absent="where the kernel does not show the socket",
)
PROGRAM_PANIC = Metric(
    "program_panic",
    "gauge",
    _P,
    "1 while so many workers fail that the cause may be behind them all, and they are held.",
)
PROGRAM_SUSPENDED = Metric(
    "program_suspended", "gauge", _P, "1 while the program's budget of restarts is spent: watched, not acted on."
)
PROGRAM_PAUSED = Metric("program_paused", "gauge", _P, "1 while somebody has paused all of its workers.")
PROGRAM_ROLLING = Metric("program_rolling", "gauge", _P, "1 while a rolling restart is under way.")
PROGRAM_HELD = Metric(
    "program_held",
    "gauge",
    (*_P, "brake"),
    "Workers whose restart a brake holds; a brake that holds the program as a whole counts once.",
    BRAKES,
)
PROGRAM_BUDGET_LEFT = Metric(
    "program_budget_restarts_left", "gauge", _P, "Health restarts that the budget still has room for in this window."
)
PROGRAM_BUDGET_LIMIT = Metric(
    "program_budget_restarts_limit", "gauge", _P, "Health restarts that the budget has room for in one window."
)

INFO = Metric("info", "gauge", ("version",), "Always 1; the label says which version of supervisor-uvicorn listens.")
LOOK = Metric("look_seconds", "histogram", (), "How long one look at all workers took.", buckets=LOOK_BUCKETS_S)
LAST_LOOK = Metric(
    "last_look_timestamp_seconds",
    "gauge",
    (),
    "When the last look ended, in seconds since 1970.",
    absent="before the first look, and while another listener of this supervisord acts",
)
EVENTS_HEARD = Metric("events_total", "counter", ("event",), "Events that supervisord has sent.", EVENTS)
ERRORS_TOLD = Metric(
    "errors_total", "counter", ("reason",), "The listener's own troubles: its `error` log lines.", ERRORS
)
RPC = Metric("rpc_seconds", "summary", (), "How long the listener's calls to supervisord took, failed ones as well.")
RPC_FAILURES = Metric("rpc_failures_total", "counter", (), "The listener's calls to supervisord that gave no result.")
NOTIFICATIONS = Metric(
    "notifications_total",
    "counter",
    ("channel", "outcome"),
    "News told to others, by `notify` and `notify_url`.",
    DELIVERIES,
)

FAMILIES: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    (
        "Of each worker",
        (
            *(WORKER_UP, WORKER_VERDICT, WORKER_LAG, WORKER_PROBE_SECONDS, WORKER_PROBES, WORKER_RESTARTS),
            *(WORKER_RSS, WORKER_CPU, WORKER_CONNECTIONS, WORKER_FDS, WORKER_MAX_FDS, WORKER_START, WORKER_HELPERS),
        ),
    ),
    (
        "Of each program",
        (
            *(PROGRAM_WORKERS, PROGRAM_QUEUE, PROGRAM_QUEUE_LIMIT, PROGRAM_PANIC, PROGRAM_SUSPENDED, PROGRAM_PAUSED),
            *(PROGRAM_ROLLING, PROGRAM_HELD, PROGRAM_BUDGET_LEFT, PROGRAM_BUDGET_LIMIT),
        ),
    ),
    (
        "Of the listener itself",
        (INFO, LOOK, LAST_LOOK, EVENTS_HEARD, ERRORS_TOLD, RPC, RPC_FAILURES, NOTIFICATIONS),
    ),
)

CATALOGUE = tuple(metric for _, metrics in FAMILIES for metric in metrics)
