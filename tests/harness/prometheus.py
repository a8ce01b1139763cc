"""A real Prometheus (Debian's package) for a test: a directory and a port of its own, and gone at the end."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from harness.promql import PROMETHEUS
from harness.supervisord import free_port
from harness.waiting import wait_for

START_DEADLINE_S = 60.0


def need(program: str) -> str:
    """The path of ``prometheus`` or ``promtool``; the test is skipped where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here (Debian: apt-get install prometheus)")
    return found


def promtool(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it, in conf/prometheus; stderr is with stdout."""
    return subprocess.run(
        [need("promtool"), *words],
        cwd=PROMETHEUS,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


class Prometheus:
    """Scrapes ``targets`` (host:port) each second, with the alerts of conf/prometheus; only on loopback.

    ``wait``: what every ``for:`` of the alerts is shortened to.
    """

    def __init__(self, *targets: str, wait: str = "1s") -> None:
        self.targets = targets
        self.port = free_port()
        self._wait = wait
        self._scratch = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print((self._scratch / "log").read_text(errors="replace")[-4000:])
        self._end()

    def _start(self) -> None:
        configuration = (PROMETHEUS / "prometheus.yml").read_text()
        configuration = re.sub(r"_interval: \w+", "_interval: 1s", configuration)
        configuration = re.sub(r"targets: \[.*\]", f"targets: {json.dumps(self.targets)}", configuration)
        (self._scratch / "prometheus.yml").write_text(configuration)
        alerts = re.sub(r"\bfor: \w+", f"for: {self._wait}", (PROMETHEUS / "alerts.yml").read_text())
        (self._scratch / "alerts.yml").write_text(alerts)
        command = [
            need("prometheus"),
            f"--config.file={self._scratch / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._scratch / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with (self._scratch / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._scratch, start_new_session=True
            )
        wait_for(self._ready, START_DEADLINE_S, "Prometheus is ready")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._scratch / "log").read_text(errors="replace")
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url("/-/ready"), timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    # --- asking it ----------------------------------------------------------------------------------------------------

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its HTTP API; AssertionError for a refusal, with its words."""
        url = self._url(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode(errors='replace')}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series that the expression gives now."""
        result = self.get("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float | None:
        """The one value that the expression gives now; None where it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def firing(self, alert: str) -> list[dict[str, str]]:
        """The labels of each alert of this name that fires."""
        return [
            one["labels"]
            for one in self.get("alerts")["alerts"]
            if one["labels"]["alertname"] == alert and one["state"] == "firing"
        ]

    def target(self) -> dict[str, Any]:
        """The one target: ``health``, ``lastError``, ``lastScrapeDuration`` (s)."""
        (found,) = self.get("targets")["activeTargets"]
        return dict(found)
