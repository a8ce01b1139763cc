"""One program of four workers on one kind of socket, watched, under load; and around it what can go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from harness import client, interpreter, processes, rolls
from harness.load_client import Failed, Link, request_for
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, free_port
from harness.waiting import wait_for

from faults.load import Load, connect
from faults.plan import SILENT_AFTER_S, START_TIMEOUT_S, STOPWAIT_S, TICK_S, WORKERS
from faults.rpc_proxy import RpcProxy
from faults.trace import Event, Said, Truth, at, recycled

INTRUDER = Path(__file__).resolve().parent / "intruder"

MAX_REQUESTS = 6000
"""``--limit-max-requests``: some seconds of a client that asks as fast as it can, minutes of the load."""

LISTEN = (
    f"--silent-after {SILENT_AFTER_S:g} --path /health --start-timeout {START_TIMEOUT_S:g} "
    "--backoff 0 --budget 1000/600"
)

REACH_S = 1.0
"""A connection to a chosen worker is asked for with its peers stopped: for less than silent_after, whatever happens."""


class Interrupted(Exception):  # noqa: N818 - a way out, not an error
    """The campaign is to end now."""


@dataclasses.dataclass
class Arena:
    """What a round needs; made by :func:`arena`."""

    socket: str  # one of plan.SOCKETS
    site: Supervisord
    proxy: RpcProxy
    load: Load
    control: Path  # what the intruder reads
    truth: Truth
    said: Said
    stop: threading.Event  # somebody has pressed Ctrl-C: end in good order
    fds: int = 0  # the listener's, when nothing was wrong yet
    threads: int = 0
    lines_lost: bool = False  # the listener's log has been full in this round
    held: list[Link] = dataclasses.field(default_factory=list)  # on which hung workers were asked

    @property
    def plugin(self) -> bool:
        return "rpcinterface:uvicorn" in self.site.conf_path.read_text()

    @property
    def tls(self) -> bool:
        return self.socket == "tls"

    def go_on(self) -> None:
        """Raises :class:`Interrupted` where the campaign is to end."""
        if self.stop.is_set():
            raise Interrupted

    def listener(self) -> int:
        """The listener's pid; 0: there is none now."""
        return self.truth.pids.get(self.site.listener, 0)

    def workers(self) -> dict[str, int]:
        return {name: pid for name, pid in self.truth.pids.items() if name in WORKERS}

    def settled(self) -> bool:
        """Does the listener call every worker healthy, under the pid that it has now?"""
        pids = self.workers()
        if len(pids) != len(WORKERS) or not self.listener():
            return False
        if all(self.said.verdicts.get(pid) == "healthy" for pid in pids.values()):
            return True
        return self.lines_lost and self.plugin and rolls.healthy(self.site)

    doubtful: set[str] = dataclasses.field(default_factory=set)  # surroundings in which log lines were lost

    def reach(self, worker: str) -> Link | None:
        """A connection that this worker has accepted (it must be well); None: not at this moment."""
        pids = self.workers()
        pid = pids.get(worker, 0)
        if not pid:
            return None
        link = None
        try:
            with client.only(pid, pids.values()):
                link = connect(self.site.url(), self.tls, REACH_S)
                body, _ = link.ask(request_for("keep-alive", "/pid"))
        except Failed:
            return None
        if json.loads(body)["pid"] == pid:
            return link
        link.close()  # a peer had accepted it just before it was stopped
        return None

    def ends_by_itself(self, worker: str, pid: int) -> bool:
        return recycled(self.site.scratch / f"web-{worker.rpartition('-')[2]}.err", pid)

    def read(self) -> list[Event]:
        """Take in what is new in both logs; the listener's new events."""
        self.truth.read()
        return self.said.read()

    def add_history(self, since: float) -> None:
        """What the listener did since then and could not write into its log: it keeps that in supervisord as well.

        Both have a time stamp of their own, so an event is known by its kind and pid.
        """
        if not self.plugin:
            return
        known = {(event["event"], event.get("pid")) for event in self.said.events if at(event) >= since}
        for event in _events(rolls.verb(self.site, "history", "--json")):
            if at(event) >= since and (event["event"], event.get("pid")) not in known:
                self.said.add(event)

    def left_over(self) -> list[str]:
        """What the listener holds more than at first, and processes that should not be."""
        found = []
        pid = self.listener()
        with contextlib.suppress(OSError):
            if (fds := processes.descriptors(pid)) > self.fds + 4:
                found.append(f"{fds} descriptors of the listener, {self.fds} at first")
            if (threads := processes.threads(pid)) > self.threads + 8:  # for as many probes at a time
                found.append(f"{threads} threads of the listener, {self.threads} at first")
        assert self.site.process is not None
        known = {self.site.process.pid, *self.truth.pids.values()}
        strangers = sorted(set(processes.marked(self.site.mark)) - known)
        if strangers:
            found.append(f"processes {strangers}")
        return found


def _events(told: subprocess.CompletedProcess[str]) -> list[Event]:
    """What ``history --json`` printed."""
    try:
        content = json.loads(told.stdout)
    except ValueError:
        return []
    entries: list[Event] = content.get("entries", []) if isinstance(content, dict) else []
    return [entry for entry in entries if "event" in entry and "time" in entry]


@contextlib.contextmanager
def arena(socket: str, chance: random.Random, stop: threading.Event, logs: Path | None = None) -> Iterator[Arena]:
    """Inside, four workers are well and under load; nothing that was begun is alive afterwards.

    ``logs``: the logs are copied there at the end.
    """
    with contextlib.ExitStack() as stack:
        site = _site(socket)
        (site.scratch / "control").mkdir()
        if socket == "tls":
            _certificate(site.scratch)
        upstream = site.scratch / "supervisor.sock"
        proxy = stack.enter_context(RpcProxy(site.scratch / "proxy.sock", upstream, chance))
        stack.enter_context(site)
        load = Load(site.url(), tls=socket == "tls")
        scratch = site.scratch
        truth, said = Truth(scratch / "supervisord.log"), Said(site.log_path)
        its = Arena(socket, site, proxy, load, scratch / "control", truth, said, stop)

        def ready() -> bool:
            its.read()
            its.go_on()
            return its.settled()

        wait_for(ready, 90, f"four healthy workers ({socket})")
        stack.enter_context(load)
        ticked = load.answered
        wait_for(lambda: load.answered > ticked + 20, 60, f"answers to the load ({socket})")
        its.fds, its.threads = processes.descriptors(its.listener()), processes.threads(its.listener())
        try:
            yield its
        finally:
            for link in its.held:
                link.close()
            if logs is not None:
                _keep(scratch, logs / socket)


def _site(socket: str) -> Supervisord:
    """TCP: stock uvicorn. Unix: on h11, without the rpcinterface. TLS: ``serve`` on h11 and asyncio."""
    # A worker that is stopped, or has no CPU, for 5 s would close a kept connection on which the next request comes.
    options = f"--no-access-log --limit-max-requests {MAX_REQUESTS} --timeout-keep-alive 120"
    extra = f"autorestart=true\nstopwaitsecs={STOPWAIT_S:g}"
    if socket == "unix":
        program = Program(socket="unix", uvicorn=f"{options} --http h11", extra=extra)
    elif socket == "tls":
        tls = "--ssl-keyfile {scratch}/key.pem --ssl-certfile {scratch}/cert.pem"
        program = Program(uvicorn=f"{options} --http h11 --loop asyncio {tls}", extra=extra, module=SERVE)
    else:
        program = Program(uvicorn=options, extra=extra)
    if not program.socket.startswith("unix"):
        program.socket = f"tcp://127.0.0.1:{free_port()}"
    paths = [str(INTRUDER), *([] if interpreter.about()["package"] else [str(interpreter.ROOT)])]
    site = Supervisord(
        program,
        listen=LISTEN,
        tick_s=int(TICK_S),
        sections="" if socket == "unix" else PLUGIN,
        # Straight into the file: a full disk is then the listener's own trouble, not supervisord's.
        listener_command="/bin/sh -c 'exec {listen} 2>>{{scratch}}/listener.log'",
        listener_extra="serverurl=unix://{scratch}/proxy.sock\nstopwaitsecs=3",
        environment={"PYTHONPATH": os.pathsep.join(paths)},
    )
    # The harness sends its log there through supervisord as well; nothing comes that way.
    text = site.conf_path.read_text()
    site.conf_path.write_text(text.replace(f"stderr_logfile={site.log_path}", "stderr_logfile=NONE"))
    site._extra_environment["FAULTS_CONTROL"] = str(site.scratch / "control")
    return site


def _keep(scratch: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path in (*scratch.glob("*.log"), *scratch.glob("*.err"), *scratch.glob("*.conf")):
        shutil.copy(path, directory)


def _certificate(scratch: Path) -> None:
    """A key and a certificate for two days, signed by itself."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    command += ["-keyout", str(scratch / "key.pem"), "-out", str(scratch / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
