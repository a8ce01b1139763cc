"""A real supervisord with real uvicorn workers and the listener, in a directory of its own; nothing stays behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from harness import client, interpreter, processes
from harness.waiting import wait_for

Event = dict[str, Any]

START_DEADLINE_S = 60.0

SERVE = "supervisor_uvicorn serve"

PLUGIN = """
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
"""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass
class Program:
    """One ``[fcgi-program]`` of uvicorn workers; ``socket`` is ``tcp`` or ``unix`` (or a whole URL)."""

    name: str = "web"
    numprocs: int = 4
    socket: str = "tcp"
    app: str = "faulty:app"
    uvicorn: str = ""  # further options
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: str = ""  # further lines of the section
    command: str = "{uvicorn}"  # how the uvicorn command is wrapped
    module: str = "uvicorn"  # or SERVE, which takes the same options

    def section(self, scratch: Path) -> str:
        options = f"--fd 0 --app-dir {interpreter.APPS} {self.uvicorn} {self.app}"
        uvicorn = f"{interpreter.python()} -m {self.module} {options}"
        environment = ",".join(f'{key}="{value}"' for key, value in self.environment.items())
        return "\n".join(
            [
                f"[fcgi-program:{self.name}]",
                f"socket={self.url(scratch)}",
                f"command={self.command.format(uvicorn=uvicorn)}",
                f"numprocs={self.numprocs}",
                f"process_name={self.name}-%(process_num)d",
                f"environment={environment}" if environment else "",
                f"stdout_logfile={scratch}/%(program_name)s-%(process_num)d.out",
                f"stderr_logfile={scratch}/%(program_name)s-%(process_num)d.err",
                self.extra,
                "",
            ]
        )

    def url(self, scratch: Path) -> str:
        if self.socket == "tcp":
            self.socket = f"tcp://127.0.0.1:{free_port()}"
        elif self.socket == "unix":
            self.socket = f"unix://{scratch}/{self.name}.sock"
        return self.socket


class Supervisord:
    """Context manager: supervisord runs inside, and nothing that it began is alive afterwards.

    ``listen``: the options of the listener, None for no listener. ``conf``: a whole configuration instead of
    ``programs``, in which ``{scratch}`` stands for the test's own directory.
    """

    def __init__(
        self,
        *programs: Program,
        listen: str | None = "",
        tick_s: int = 5,
        sections: str = "",
        conf: str | None = None,
        listener: str = "uvicorn-health",
        listener_extra: str = "",
        listener_command: str = "{listen}",
        server_extra: str = "",
        environment: Mapping[str, str] | None = None,
        command_prefix: Sequence[str] = (),
    ) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="su-"))  # short: a unix socket's path has 107 characters
        self.scratch.chmod(0o755)
        self.programs = {program.name: program for program in programs}
        self.mark = uuid.uuid4().hex
        self.listener = listener
        self.log_path = self.scratch / "listener.log"
        self.conf_path = self.scratch / "supervisord.conf"
        self.process: subprocess.Popen[bytes] | None = None
        self._extra_environment = dict(environment or {})
        self._command_prefix = list(command_prefix)
        self._rpc_path = str(self.scratch / "supervisor.sock")
        self._kept: list[client.Connection] = []
        (self.scratch / "faults").mkdir()
        (self.scratch / "faults").chmod(0o777)
        if conf is None:
            entry = ""
            if listen is not None:
                entry = self.listener_section(listener, listen, self.log_path, tick_s, listener_extra, listener_command)
            conf = self._compose(entry, sections, server_extra)
        self.conf_path.write_text(conf.replace("{scratch}", str(self.scratch)))

    def _compose(self, listener_section: str, sections: str, server_extra: str) -> str:
        parts = [
            "[supervisord]",
            f"logfile={self.scratch}/supervisord.log",
            f"pidfile={self.scratch}/supervisord.pid",
            f"childlogdir={self.scratch}",
            f"directory={self.scratch}",
            "",
            "[unix_http_server]",
            f"file={self._rpc_path}",
            server_extra,
            "",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
            "",
            "[supervisorctl]",
            f"serverurl=unix://{self._rpc_path}",
            "",
        ]
        parts += [program.section(self.scratch) for program in self.programs.values()]
        return "\n".join([*parts, listener_section, sections])

    @staticmethod
    def listener_section(
        name: str, options: str, log: Path, tick_s: int = 5, extra: str = "", command: str = "{listen}"
    ) -> str:
        options = options.replace("%", "%%")  # supervisor expands %(...)s in commands
        listen = f"{interpreter.python()} -m supervisor_uvicorn listen --log-format json {options}"
        return "\n".join(
            [
                f"[eventlistener:{name}]",
                f"command={command.format(listen=listen)}",
                f"events=TICK_{tick_s},PROCESS_STATE,REMOTE_COMMUNICATION",
                "buffer_size=100",
                "autorestart=true",
                "priority=-10",
                "stdout_logfile=NONE",
                f"stderr_logfile={log}",
                "stderr_logfile_maxbytes=0",
                extra,
                "",
            ]
        )

    # --- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Supervisord:
        try:
            self.start()
        except BaseException:
            self._print_logs()
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._print_logs()
        self._end()

    @property
    def environment(self) -> dict[str, str]:
        variables = interpreter.environment(self.scratch)
        variables[processes.MARKER] = self.mark
        variables["TMPDIR"] = str(self.scratch)  # supervisord's own log files of children, where none is configured
        variables["FAULTY_DIR"] = str(self.scratch / "faults")
        variables.update(self._extra_environment)
        return variables

    def start(self) -> None:
        """Start supervisord and wait until it answers."""
        command = [
            *self._command_prefix,
            interpreter.python(),
            "-m",
            "supervisor.supervisord",
            "-n",
            "-c",
            str(self.conf_path),
        ]
        with (self.scratch / "supervisord.out").open("ab") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.scratch,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(self._answers, START_DEADLINE_S, "supervisord's RPC server")

    def _answers(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"supervisord ended with {code}"
        try:
            return bool(self.rpc.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def stop(self, deadline_s: float = 40.0) -> int:
        """TERM to supervisord, as ``docker stop`` does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(deadline_s)

    def _end(self) -> None:
        for connection in self._kept:
            connection.close()
        process = self.process
        if process is not None and process.poll() is None:
            for pid in processes.marked(self.mark):  # whatever was stopped or hung would hold supervisord up
                if pid != process.pid and processes.state(pid) in {"T", "t"}:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(deadline_s=2)
        processes.kill_marked(self.mark)
        if process is not None:
            process.wait(10)
        left = processes.marked(self.mark)
        shutil.rmtree(self.scratch, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def _print_logs(self) -> None:
        """For the report of a failed test: pytest shows what was printed."""
        for path in [
            self.conf_path,
            *sorted(self.scratch.glob("*.out")),
            *sorted(self.scratch.glob("*.err")),
            *sorted(self.scratch.glob("*.log")),
        ]:
            lines = path.read_text(errors="replace").splitlines()
            if lines:
                print(f"===== {path.name} (last {min(len(lines), 60)} of {len(lines)} lines)")
                print("\n".join(lines[-60:]))

    # --- supervisord --------------------------------------------------------------------------------------------

    @property
    def server_url(self) -> str:
        return f"unix://{self._rpc_path}"

    @property
    def rpc(self) -> Any:
        """A fresh proxy of supervisord's ``supervisor`` namespace (one error poisons supervisor's own transport)."""
        transport = SupervisorTransport(None, None, self.server_url)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def infos(self, group: str | None = None) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = self.rpc.getAllProcessInfo()
        return [info for info in infos if info["group"] == group or (group is None and info["group"] != self.listener)]

    def pids(self, group: str | None = None) -> dict[str, int]:
        """``group:name`` -> pid (0: no process) of every process but the listener."""
        return {f"{info['group']}:{info['name']}": info["pid"] for info in self.infos(group)}

    def states(self, group: str | None = None) -> dict[str, str]:
        return {f"{info['group']}:{info['name']}": info["statename"] for info in self.infos(group)}

    def all_running(self, group: str | None = None) -> bool:
        return set(self.states(group).values()) == {"RUNNING"}

    def wait_running(self, deadline_s: float = START_DEADLINE_S) -> dict[str, int]:
        wait_for(self.all_running, deadline_s, "all processes RUNNING")
        return self.pids()

    def ctl(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        command = [interpreter.python(), "-m", "supervisor.supervisorctl", "-c", str(self.conf_path), *words]
        return self._run(command, timeout_s)

    def cli(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """``supervisor-uvicorn WORDS`` against this supervisord's configuration."""
        return self._run([interpreter.python(), "-m", "supervisor_uvicorn", *words], timeout_s)

    def check(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.cli("check", "-c", str(self.conf_path), *words, timeout_s=timeout_s)

    def _run(self, command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.scratch,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )

    # --- workers ------------------------------------------------------------------------------------------------

    def url(self, group: str = "web") -> str:
        return self.programs[group].url(self.scratch)

    def connect_to(self, name: str, timeout_s: float = 10.0) -> client.Connection:
        group = name.partition(":")[0]
        pids = self.pids(group)
        return client.connect_to(self.url(group), pids[name], pids.values(), timeout_s)

    def fault(self, name: str, path: str) -> float:
        """Send a request to exactly this worker, and do not wait for its answer. Returns when (monotonic)."""
        connection = self.connect_to(name)
        self._kept.append(connection)  # closed by us it would be an end of file for the handler
        began = time.monotonic()
        connection.send_only(path)
        return began

    def tell(self, name: str, path: str) -> dict[str, object]:
        """Send a request to exactly this worker and return its answer."""
        connection = self.connect_to(name)
        try:
            status, answer = connection.ask(path)
        finally:
            connection.close()
        assert status == 200, (status, answer)
        return answer

    def fault_file(self, name: str, text: str) -> None:
        """What the test application looks for in FAULTY_DIR: ``next-start``, ``health``. Empty text: gone."""
        path = self.scratch / "faults" / name
        if text:
            new = path.with_suffix(".new")
            new.write_text(text)
            new.chmod(0o666)
            new.rename(path)
        else:
            path.unlink(missing_ok=True)

    # --- the listener -------------------------------------------------------------------------------------------

    def listener_pid(self) -> int:
        return int(self.rpc.getProcessInfo(self.listener)["pid"])

    def listener_log(self) -> list[Event]:
        """Every line of the listener's log as an object. A line that is no JSON object is an error of its own."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [_parsed(line) for line in lines if line.strip()]

    def events(self, event: str | None = None, **fields: Any) -> list[Event]:
        """The listener's events of this kind with these fields."""
        return [
            entry
            for entry in self.listener_log()
            if (event is None or entry.get("event") == event) and all(entry.get(k) == v for k, v in fields.items())
        ]

    def wait_event(self, event: str, deadline_s: float, **fields: Any) -> Event:
        what = f"the event {event} {fields or ''}"
        return wait_for(lambda: self.events(event, **fields), deadline_s, what)[0]

    def wait_pinned(self, deadline_s: float = START_DEADLINE_S, *, but: Sequence[str] = ()) -> dict[str, int]:
        """Wait until every process but those named is RUNNING and pinned under its present pid; name -> pid."""

        def pinned() -> bool:
            seen = {entry.get("pid") for entry in self.events("pinned")}
            return all(pid and pid in seen for name, pid in self.pids().items() if name not in but)

        self.wait_running(deadline_s)
        wait_for(pinned, deadline_s, "all workers pinned")
        return self.pids()


def _parsed(line: str) -> Event:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return {"event": "not-json", "message": line, "level": "error", "time": None}
    return entry


@contextlib.contextmanager
def watched(program: Program | None = None, listen: str = "", **options: Any) -> Iterator[Supervisord]:
    """The usual case: one program of four workers and a listener, inside when all workers are pinned."""
    with Supervisord(program or Program(), listen=listen, **options) as site:
        site.wait_pinned()
        yield site
