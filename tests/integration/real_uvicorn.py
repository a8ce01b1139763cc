"""uvicorn processes that share a listening socket as fd 0, as under an fcgi-program, but without supervisord."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from harness.interpreter import APPS, python
from harness.waiting import wait_for

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, Options, WorkerId
from supervisor_uvicorn.probe import Pins, Request, Sight, Target

NORMAL = Options()


class Program:
    """``count`` workers at one socket."""

    def __init__(
        self,
        scratch: Path,
        count: int = 4,
        family: str = "tcp",
        arguments: Sequence[str] = (),
        options: Options = NORMAL,
        app: str = "faulty:app",
        command: Sequence[str] = (),
    ) -> None:
        """``command``: another server than uvicorn, on the socket that is its descriptor 0."""
        self.log_path = scratch / "workers.log"
        self.options = options
        self.arguments = [*arguments]
        self.app = app
        self.command = [*command]
        self.listening = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
        if family == "unix":
            self.address = Address("unix", path=str(scratch / "socket"))
            self.listening.bind(self.address.path)
        else:
            self.listening.bind(("127.0.0.1", 0))
            self.address = Address("tcp", host="127.0.0.1", port=self.listening.getsockname()[1])
        self.listening.listen(2048)
        self.inode = os.fstat(self.listening.fileno()).st_ino
        self.processes: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            self.start()

    def start(self) -> subprocess.Popen[bytes]:
        uvicorn = [python(), "-m", "uvicorn", "--fd", "0", "--app-dir", str(APPS), *self.arguments, self.app]
        command = self.command or uvicorn
        environment = {key: value for key, value in os.environ.items() if not key.startswith("UVICORN_")}
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=self.listening, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.processes.append(process)
        return process

    def wait_until_serving(self) -> None:
        for process in self.processes:
            wait_for(lambda p=process: self.inode in proc.epoll_watched_inodes(p.pid), 60, "a worker that serves")  # type: ignore[misc]

    def log(self) -> str:
        return self.log_path.read_text()

    def target(self, process: subprocess.Popen[bytes], request: Request | None = None) -> Target:
        worker = WorkerId(f"web:web-{self.processes.index(process)}", process.pid, proc.born(process.pid))
        return Target(worker, self.address, self.options, request)

    def targets(self, request: Request | None = None) -> list[Target]:
        return [self.target(process, request) for process in self.processes]

    def send(self, path: str, timeout_s: float = 10.0, *, wait: bool = True) -> bytes:
        """One request on a connection of its own; the whole answer, or b"" without ``wait``."""
        client = socket.socket(self.listening.family)
        client.settimeout(timeout_s)
        client.connect(self.listening.getsockname())
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        if not wait:
            self._left_open.append(client)
            return b""
        answer = b""
        with client:
            while data := client.recv(65536):
                answer += data
                head, _, body = answer.partition(b"\r\n\r\n")  # a forked helper keeps the connection open
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                if length and len(body) >= int(length[1]):
                    break
        return answer

    _left_open: list[socket.socket] = []  # noqa: RUF012 - a fresh one for each in `running`

    def hang_one(self, path: str = "/hang/sleep") -> subprocess.Popen[bytes]:
        """Make one worker hang; which one is told by the ticks and the state of its main thread."""
        before = {p.pid: proc.ticks(p.pid) for p in self.processes}
        self.send(path, wait=False)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.5)  # the time over which ticks are compared, not a time to wait for something
            now = {p.pid: proc.ticks(p.pid) for p in self.processes}
            still = [p for p in self.processes if now[p.pid].switches - before[p.pid].switches <= 1]
            if len(still) == 1:
                return still[0]
            before = now
        raise AssertionError("no worker hangs")

    def close(self) -> None:
        for client in self._left_open:
            client.close()
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.listening.close()


@contextmanager
def running(scratch: Path, **how: object) -> Iterator[Program]:
    program = Program(scratch, **how)  # type: ignore[arg-type]
    program._left_open = []
    try:
        program.wait_until_serving()
        yield program
    finally:
        program.close()


class Driver:
    """Looks again and again, as the listener does, with the fine looks in between."""

    def __init__(self, targets: Sequence[Target], threads: int = 4) -> None:
        self.targets = list(targets)
        self.diag = SockDiag()
        self.pool = ThreadPoolExecutor(threads)
        self.pins = Pins(self.diag, time.monotonic, self._submit)
        self.seen: list[dict[WorkerId, Sight]] = []

    def _submit(self, job: Callable[[], None]) -> None:
        self.pool.submit(job)

    def look(self, *, may_acquire: bool = True, ask: bool = False, settle_s: float = 0.02) -> dict[WorkerId, Sight]:
        """One look, then the fine looks that are due within ``settle_s``."""
        sights = self.pins.look(self.targets, may_acquire=may_acquire, ask=ask)
        self.seen.append(sights)
        end = time.monotonic() + settle_s
        while (at := self.pins.recheck_at) is not None and at < end:
            time.sleep(max(0.0, at - time.monotonic()))
            self.pins.recheck()
        return sights

    def until(
        self, predicate: Callable[[dict[WorkerId, Sight]], object], what: str, deadline_s: float = 30.0, **how: object
    ) -> dict[WorkerId, Sight]:
        return wait_for(
            lambda: (sights if predicate(sights := self.look(**how)) else None),  # type: ignore[arg-type]
            deadline_s, what, every_s=0.01,
        )  # fmt: skip

    def pin_all(self) -> dict[WorkerId, Sight]:
        return self.until(lambda sights: all(sight.pinned for sight in sights.values()), "every worker pinned")

    def close(self) -> None:
        self.pins.close()
        self.diag.close()
        self.pool.shutdown()


@contextmanager
def driving(targets: Sequence[Target], threads: int = 4) -> Iterator[Driver]:
    driver = Driver(targets, threads)
    threads_before = threading.active_count()
    try:
        yield driver
    finally:
        driver.close()
    assert threading.active_count() <= threads_before + threads


@contextmanager
def driven(
    scratch: Path, request: Request | None = None, threads: int = 4, **how: object
) -> Iterator[tuple[Program, Driver]]:
    """Workers that serve, and a driver that looks at all of them."""
    with running(scratch, **how) as program, driving(program.targets(request), threads) as driver:
        yield program, driver


def json_of(answer: bytes) -> dict[str, object]:
    return json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}")  # type: ignore[no-any-return]
