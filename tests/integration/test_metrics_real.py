"""Metrics of a real listener; the alerts and the dashboard as promtool reads them."""

from __future__ import annotations

import socket
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from harness import processes
from harness.prometheus import promtool
from harness.promql import PROMETHEUS, dashboard_expressions, rules
from harness.supervisord import Program, free_port, watched
from harness.waiting import wait_for
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from supervisor_uvicorn.report.metrics.catalogue import CATALOGUE


def text_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(port: int, short: str, **labels: str) -> float | None:
    found = [
        one.value
        for one in samples(text_of(port))
        if one.name == f"supervisor_uvicorn_{short}" and one.labels == labels
    ]
    return found[0] if found else None


# -- a listener --------------------------------------------------------------------------------------------------------


def test_a_listener_shows_all_of_the_catalogue_and_it_is_true(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "uvicorn.prom"
    options = f"--metrics 127.0.0.1:{port} --metrics-textfile {file} --path /health --pulse 0.2"
    with watched(Program(numprocs=2), options) as site:
        pids = site.pids()
        of_0 = {"program": "web", "worker": "web:web-0"}

        def missing() -> set[str]:
            return {name for metric in CATALOGUE for name in metric.series} - {
                one.name for one in samples(text_of(port))
            }

        wait_for(lambda: not missing(), 60, "every metric of the catalogue")
        wait_for(lambda: value(port, "worker_probes_total", **of_0, outcome="right"), 60, "a right answer")
        wait_for(lambda: value(port, "worker_up", **of_0) == 1, 60, "up")
        resident = value(port, "worker_resident_memory_bytes", **of_0)
        assert resident == pytest.approx(processes.resident_bytes(pids["web:web-0"]), rel=0.2)
        started = value(port, "worker_start_time_seconds", **of_0)
        assert started is not None
        assert abs(started - site.rpc.getProcessInfo("web:web-0")["start"]) < 3
        last = value(port, "last_look_timestamp_seconds")
        assert last is not None
        assert 0 <= time.time() - last < 5
        assert value(port, "program_accept_queue_limit", program="web") is not None
        assert value(port, "events_total", event="TICK_5")
        assert value(port, "rpc_seconds_count")
        before = value(port, "worker_lag_seconds_count", **of_0)
        assert before
        wait_for(lambda: (value(port, "worker_lag_seconds_count", **of_0) or 0) > before, 30, "more pulses")

        site.fault("web:web-0", "/hang/sleep")
        # at 0.2 s a pulse; silent_after is not waited for: a person ends it
        site.rpc.signalProcess("web:web-0", "KILL")
        wait_for(lambda: site.pids()["web:web-0"] not in (0, pids["web:web-0"]), 60, "a new pid")
        wait_for(
            lambda: (value(port, "worker_start_time_seconds", **of_0) or 0) > started, 60, "the start of the new pid"
        )
        assert sum(one.name.endswith("worker_up") for one in samples(text_of(port))) == 2

        assert {one.name for one in samples(file.read_text())} == {one.name for one in samples(text_of(port))}
        lint = promtool("check", "metrics", given=text_of(port))
        assert (lint.returncode, lint.stdout) == (0, "")


def test_what_supervisord_no_longer_has_has_no_series() -> None:
    port = free_port()
    with watched(Program(numprocs=2), f"--metrics {port}") as site:
        wait_for(lambda: value(port, "worker_up", program="web", worker="web:web-0") == 1, 60, "up")
        site.rpc.stopProcess("web:web-0")
        wait_for(lambda: value(port, "worker_up", program="web", worker="web:web-0") is None, 60, "STOPPED is absent")
        assert value(port, "worker_up", program="web", worker="web:web-1") == 1
        site.rpc.stopProcessGroup("web")
        site.rpc.removeProcessGroup("web")
        wait_for(lambda: not [one for one in samples(text_of(port)) if "program" in one.labels], 60, "no series of it")


def test_a_port_that_is_taken_is_told_and_the_workers_are_watched_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with watched(Program(numprocs=1), f"--metrics {port}") as site:
            told = site.wait_event("error", 60, reason="metrics")
            assert f"127.0.0.1:{port}: another process listens there already" in told["message"]
            site.wait_pinned()
            server.close()
            wait_for(lambda: "served at" in site.events("error", reason="metrics")[-1]["message"], 60, "served")
            assert value(port, "worker_up", program="web", worker="web:web-0") == 1


# -- promtool ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_is_content(words: tuple[str, ...]) -> None:
    done = promtool(*words)
    assert done.returncode == 0, done.stdout
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_the_rules_tests_would_notice_an_alert_that_never_fires(alert: str, tmp_path: Path) -> None:
    broken = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    for rule in broken["groups"][0]["rules"]:
        if rule["alert"] == alert:
            rule["expr"] = f"({rule['expr']}) and on () (vector(0) > 1)"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(broken))
    (tmp_path / "alerts_test.yml").write_text((PROMETHEUS / "alerts_test.yml").read_text())
    done = promtool("test", "rules", str(tmp_path / "alerts_test.yml"))
    assert done.returncode != 0
    assert alert in done.stdout


def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    found = [{"record": f"panel:{number}", "expr": expr} for number, (_, expr) in enumerate(dashboard_expressions())]
    assert len(found) >= 25
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout
