"""Every setting, once: its name, what it takes, its default, its precedent and its help. Floor 0.

To add a setting: a field in settings_values.py, an entry here, ``python docs/generate_settings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_uvicorn import settings_kinds as kinds
from supervisor_uvicorn import settings_limits as limits
from supervisor_uvicorn import settings_outward as outward
from supervisor_uvicorn.settings_kinds import Kind
from supervisor_uvicorn.settings_values import ListenSettings, Settings


@dataclass(frozen=True)
class Entry:
    """One setting.

    ``field`` is its name in :class:`Settings` (scope ``program``: also in a group's section) or in
    :class:`ListenSettings` (scope ``listener``: only in the general section, and ``at_start`` is of that scope).
    """

    key: str
    field: str
    kind: Kind
    help: str
    precedent: str
    example: str
    scope: str = "program"
    at_start: bool = False  # it counts when the listener starts, and a reload leaves it as it is

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def default(self) -> str:
        """The default as a user would write it; "none" for nothing at all."""
        return self.kind.write(self._value)

    @property
    def is_set(self) -> bool:
        """Is there a value where nobody writes one?"""
        return self.default != "none" or self._value not in (None, ())

    @property
    def _value(self) -> object:
        return getattr(Settings() if self.scope == "program" else ListenSettings(), self.field)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "pulse",
        "pulse_s",
        kinds.seconds(at_least_s=0.05, at_most_s=60.0),
        "How long between two looks at the event loops. At most half of the smallest silent_after. A shorter one finds "
        "a hang sooner; with 0.2 s a site at its limit answered 1.3 % fewer requests (docs/benchmarks.rst).",
        "gunicorn's arbiter looks each second",
        "1",
        scope="listener",
    ),
    Entry(
        "group",
        "groups",
        kinds.groups(),
        "Watch only these programs (groups of supervisord). Without it: every uvicorn worker that is found.",
        "superlance's httpok -p",
        "web",
        scope="listener",
    ),
    Entry(
        "log_format",
        "log_format",
        kinds.choice("text", "json"),
        "How a line of the log is written: for people, or one JSON object a line.",
        "one event a line, the twelve-factor app's way",
        "json",
        scope="listener",
        at_start=True,
    ),
    Entry(
        "metrics",
        "metrics",
        outward.place(),
        "Serve metrics for Prometheus at this address, under /metrics. A port alone is one of 127.0.0.1. Takes the "
        "extra: pip install supervisor-uvicorn[metrics].",
        "granian's --metrics, the exporters of Prometheus",
        "127.0.0.1:9117",
        scope="listener",
        at_start=True,
    ),
    Entry(
        "metrics_textfile",
        "metrics_textfile",
        outward.file(),
        "Write the same metrics to this file, at each TICK, whole or not at all, for node_exporter's textfile "
        "collector. Takes the extra, too.",
        "node_exporter's --collector.textfile.directory",
        "/var/lib/prometheus/node-exporter/supervisor_uvicorn.prom",
        scope="listener",
        at_start=True,
    ),
    Entry(
        "notify",
        "notify",
        outward.command(),
        "Run this command with the event as JSON on its stdin: for restart, explained, suspended, held and resumed. No "
        "shell; ended after 10 s.",
        "superlance's crashmail, keepalived's notify scripts",
        "/usr/local/bin/page-somebody web",
        scope="listener",
        at_start=True,
    ),
    Entry(
        "notify_url",
        "notify_url",
        outward.url(),
        "POST the same JSON to this URL, again after a failure. What stands behind the host never appears in a log.",
        "Alertmanager's webhook receiver",
        "https://hooks.example.org/services/T0/B0",
        scope="listener",
        at_start=True,
    ),
    Entry(
        "silent_after",
        "silent_after_s",
        kinds.seconds(at_least_s=1.0),
        "A worker whose event loop has not turned for so long, in three looks or more, is silent, and is replaced.",
        "gunicorn's timeout 30 s; kubelet's 3 failures 10 s apart; uvicorn's own 5 s kills starts that hold the GIL",
        "30",
    ),
    Entry(
        "busy_factor",
        "busy_factor",
        kinds.number(at_least=1.0, at_most=1000.0),
        "A silent worker that burns CPU is given so many times silent_after.",
        "a long computation is not a deadlock",
        "2",
    ),
    Entry(
        "path",
        "path",
        kinds.path(),
        "Ask each worker for this path on every TICK, by itself. Without it only the event loop is watched.",
        "kubelet's httpGet, Pebble's http check",
        "/healthz",
    ),
    Entry(
        "expect",
        "expect",
        kinds.statuses(),
        "The status codes that are a right answer. Redirects are not followed.",
        "kubelet: 200 to 399",
        "200-399",
    ),
    Entry(
        "timeout",
        "timeout_s",
        kinds.seconds(at_least_s=0.1),
        "How long the whole answer to path may take, from the request to the last byte.",
        "Pebble's 3 s; kubelet's 1 s is its most complained-of default",
        "3",
    ),
    Entry(
        "host",
        "host",
        kinds.host(),
        "The Host header of the request for path, for an application that answers only to its own names.",
        "kubelet's httpGet.host",
        "www.example.org",
    ),
    Entry(
        "header",
        "headers",
        kinds.headers(),
        "One more header for the request for path. The flag may be given several times; in a file, one a line.",
        "kubelet's httpHeaders",
        "X-Health: 1",
    ),
    Entry(
        "failing_after",
        "failing_after",
        kinds.count(),
        "So many wrong answers one after another, and a worker is failing.",
        "HAProxy's fall 3, kubelet's failureThreshold 3",
        "3",
    ),
    Entry(
        "panic_threshold",
        "panic_threshold",
        kinds.share(),
        "A failing worker is replaced only while at most this share of the program's workers is failing. Above it "
        "something behind them all is down, and replacing them would make it worse.",
        "Envoy's healthy_panic_threshold 50 %",
        "50%",
    ),
    Entry(
        "start_timeout",
        "start_timeout_s",
        kinds.seconds(at_least_s=1.0),
        "How long a worker may take until it serves. Imports and the lifespan's start-up count.",
        "Passenger's start timeout and systemd's TimeoutStartSec, 90 s",
        "90",
    ),
    Entry(
        "max_unavailable",
        "max_unavailable",
        kinds.count(),
        "Workers are drained only while fewer than so many of the program are not serving, for whatever reason.",
        "Kubernetes' maxUnavailable",
        "1",
    ),
    Entry(
        "backoff",
        "backoff",
        kinds.backoff(),
        "How long until the same worker may be replaced again: from the first figure, doubling, to the second. "
        "Forgotten after 600 s in health; 0 switches it off.",
        "kubelet's CrashLoopBackOff: 10 s doubling to 300 s, reset after 10 minutes",
        "10:300",
    ),
    Entry(
        "budget",
        "budget",
        kinds.budget(),
        "So many replacements of sick workers in so many seconds. When they are used up the program is suspended: "
        "watched and reported, not acted upon.",
        "the restart intensity of an OTP supervisor, systemd's StartLimitBurst",
        "5/600",
    ),
    Entry(
        "abort_wait",
        "abort_wait_s",
        kinds.seconds(at_least_s=0.0),
        "How long a silent worker has, after SIGABRT, to print where it hangs (PYTHONFAULTHANDLER=1) before SIGKILL.",
        "systemd's watchdog and gunicorn: SIGABRT first",
        "2",
    ),
    Entry(
        "drain_timeout",
        "drain_timeout_s",
        kinds.seconds_or("stopwaitsecs"),
        "How long a worker that is drained has, after SIGTERM, to answer what it has accepted before SIGKILL. "
        "Without it: the program's own stopwaitsecs.",
        "supervisord's stopwaitsecs",
        "30",
    ),
    Entry(
        "max_rss",
        "max_rss_bytes",
        limits.size(),
        "A worker that, with its helpers, has more resident memory than this is drained and replaced. What forked "
        "helpers share with it counts once, where the kernel tells us.",
        "superlance's memmon, systemd's MemoryMax, Passenger's memory_limit",
        "400MB",
    ),
    Entry(
        "max_age",
        "max_age",
        limits.age(),
        "A worker that is older than this is drained and replaced. The second figure spreads them: each is given up "
        "to so many seconds more; without it, a tenth of the first.",
        "gunicorn's max_requests with max_requests_jitter, granian's --workers-lifetime",
        "86400:3600",
    ),
    Entry(
        "max_fds",
        "max_fds",
        limits.descriptors(),
        "A worker that has more open file descriptors than this, or than this share of its own limit, is drained and "
        "replaced.",
        "Prometheus' process_open_fds / process_max_fds alerts",
        "80%",
    ),
    Entry(
        "dry_run",
        "dry_run",
        kinds.flag(),
        "Watch, decide and log would-restart, but touch nothing.",
        "Envoy's enforcing_* 0 %",
        "true",
    ),
    Entry(
        "exit_on",
        "exit_on",
        kinds.choice("none", "fatal", "suspended"),
        "For a container: shut supervisord down, with exit code 69 where [rpcinterface:uvicorn] is there. fatal: when "
        "every worker of a program is FATAL. suspended: also when its budget is spent and none of its workers serves.",
        "supervisord itself ends with 0 whatever became of its programs (Supervisor/supervisor#733, #775, #712)",
        "fatal",
    ),
)

CHECK_KEYS = ("path", "expect", "timeout", "host", "header")
"""What the ``check`` verb takes of them: how a worker is asked, and nothing of what is done about it."""
