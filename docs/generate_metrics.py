"""Writes ``docs/metrics.rst`` from the catalogue of metrics; run it after a change."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from supervisor_uvicorn.report.metrics.catalogue import FAMILIES, Metric  # noqa: E402

HEAD = """\
Metrics
=======

.. Written by docs/generate_metrics.py from supervisor_uvicorn/report/metrics/catalogue.py: change it there.

What the listener knows, for Prometheus. It is off until it is asked for, and needs an extra::

    pip install 'supervisor-uvicorn[metrics]'

``--metrics 127.0.0.1:9117``
    The listener answers ``GET /metrics`` there. A port alone is one of 127.0.0.1. It has no password and no TLS: what
    it tells are names of programs and workers and how they fare, so put it where only Prometheus reaches it. It listens
    to four scrapers at once, each for 5 s in all; more wait. An address that is taken is told once and tried again
    each 5 s, and the workers are watched meanwhile; each listener of a host needs its own, also one that stands by.
``--metrics-textfile /var/lib/node_exporter/uvicorn.prom``
    The same text, written at each TICK for node_exporter's textfile collector, whole or not at all; not by a listener
    that stands by. Where it cannot be written that is logged once, and what was there before stays:
    ``supervisor_uvicorn_last_look_timestamp_seconds`` says how old it is.

In ``conf/prometheus``: ``conf/prometheus/prometheus.yml`` scrapes it, ``conf/prometheus/alerts.yml`` has rules for what
the listener could not mend by itself, ``conf/prometheus/grafana-dashboard.json`` is a dashboard of all of it.

How to read them:

- A worker is labelled by its name in supervisord, and not by its pid. A new process begins its counters and its
  histogram anew, which ``rate()`` and ``increase()`` take for the reset that it is. A name that supervisord no longer
  has takes all of its series with it.
- What is not known is absent, and never 0. What can be counted is there from the beginning, at 0.
- Every label but ``program`` and ``worker`` has a closed set of values; what is none of them is ``other``.
- ``supervisor_uvicorn_worker_lag_seconds`` is seen from outside: a byte is sent each ``pulse``, and the time until it
  is read is the lag. A loop that is blocked between two pulses only is not seen, and one that is blocked for long is
  one observation, when it is read. While it is blocked, ``supervisor_uvicorn_worker_verdict`` tells of it. A worker
  that is watched by its ticks alone has an empty histogram.
- Counters begin at 0 with each start of the listener. For what was done before it, see ``history``.

What it costs, measured with 64 workers: 46 series a worker, and 95 beside them; 3.3 MB of the listener's memory (1.3 MB
with 4 workers); 0.3 ms of CPU time a worker and scrape.

"""


def describe(metric: Metric) -> str:
    """One metric, as a term of a definition list."""
    labels = f"{{{', '.join(metric.labels)}}}" if metric.labels else ""
    about = [metric.kind]
    if metric.unit:
        about.append(f"in {metric.unit}")
    if metric.kind == "summary":
        about.append("``_sum`` and ``_count`` alone")
    lines = [f"``{metric.name}{labels}``", f"    *{', '.join(about)}.* {_rst(metric.help)}"]
    if metric.values:
        lines.append(f"    ``{metric.labels[-1]}`` is one of {', '.join(f'``{value}``' for value in metric.values)}.")
    if metric.buckets:
        lines.append(f"    Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}.")
    if metric.absent:
        lines.append(f"    Absent {_rst(metric.absent)}.")
    return "\n".join(lines)


def _rst(words: str) -> str:
    return words.replace("`", "``")


def page() -> str:
    """The whole page."""
    parts = []
    for title, metrics in FAMILIES:
        parts.append("\n".join([title, "-" * len(title), "", *map(describe, metrics)]))
    return HEAD + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (HERE / "metrics.rst").write_text(page(), encoding="utf-8")
