"""/proc, asked about this process and its children."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Gone, KernelError, Refused, Unavailable, from_os


@contextmanager
def python(code: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that runs ``code``, says so with one line, and waits for its input to end."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{code}\nprint(flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        assert child.stdout.readline() == b"\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def gone_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_born_tells_processes_apart() -> None:
    first = proc.born(os.getpid())
    assert first == proc.born(os.getpid())
    with python("") as child:
        assert proc.born(child.pid) >= first


def test_a_name_with_blanks_and_brackets_is_no_trap() -> None:
    with python("open('/proc/self/comm', 'w').write('a ) b (c 1')") as child:
        assert proc.born(child.pid) > 0
        assert proc.process_table()[child.pid].ppid == os.getpid()


def test_ticks_are_those_of_the_main_thread() -> None:
    spin = "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()"
    with python(spin) as c:
        before = proc.ticks(c.pid)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # the second thread burns CPU; the main thread waits in read()
            fields = Path(f"/proc/{c.pid}/stat").read_text().rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > before.cpu_s + 0.3:
                break
            time.sleep(0.01)
        else:
            pytest.fail("the child used no CPU")
        assert proc.ticks(c.pid).cpu_s - before.cpu_s <= 0.1


def test_ticks_count_switches() -> None:
    before = proc.ticks(os.getpid())
    if threading.current_thread() is threading.main_thread():
        select.select([], [], [], 0.001)
        assert proc.ticks(os.getpid()).switches > before.switches


def test_status() -> None:
    with python("import signal\nsignal.signal(signal.SIGABRT, lambda *_: None)") as child:
        status = proc.status(child.pid)
        assert (status.uid, status.gid, status.ppid) == (os.getuid(), os.getgid(), os.getpid())
        assert status.tracer_pid == 0
        assert status.catches(signal.SIGABRT)
        assert not status.catches(signal.SIGUSR1)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert proc.status(child.pid).state == "T"


def test_cmdline_environ_cwd(tmp_path: Path) -> None:
    long_value = "x" * 60_000  # more than a page
    with python("pass", env={"A": "b=c", "LONG": long_value, "E": ""}, cwd=tmp_path) as child:
        assert proc.cmdline(child.pid)[:2] == [sys.executable, "-c"]
        environ = proc.environ(child.pid)
        assert (environ["A"], environ["LONG"], environ["E"]) == ("b=c", long_value, "")
        assert proc.cwd(child.pid) == str(tmp_path)


def test_a_zombie_has_no_arguments() -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 20
    while proc.status(child.pid).state != "Z" and time.monotonic() < deadline:
        time.sleep(0.005)
    assert proc.cmdline(child.pid) == []
    child.wait()


def test_descriptors_and_sockets() -> None:
    one, other = socket.socketpair()
    with one, other:
        inode = os.fstat(one.fileno()).st_ino
        assert proc.descriptors(os.getpid())[one.fileno()] == f"socket:[{inode}]"
        assert proc.socket_inode(os.getpid(), one.fileno()) == inode
        assert proc.find_socket(os.getpid(), inode) == one.fileno()
        with python("", pass_fds=[one.fileno()]) as holder, python("") as stranger:
            assert proc.find_socket(holder.pid, inode) is not None
            assert proc.find_socket(stranger.pid, inode) is None
            with pytest.raises(Gone):
                proc.find_socket(gone_pid(), inode)
    assert proc.find_socket(os.getpid(), inode) is None
    with open(os.devnull) as file:
        assert proc.socket_inode(os.getpid(), file.fileno()) is None
    assert proc.socket_inode(os.getpid(), 99_999) is None


def test_epoll_shows_what_is_watched(tmp_path: Path) -> None:
    with socket.socket() as watched, socket.socket() as not_watched, select.epoll() as first, select.epoll() as second:
        watched.bind(("127.0.0.1", 0))
        watched.listen()
        ours = {os.fstat(s.fileno()).st_ino for s in (watched, not_watched)}
        assert not proc.epoll_watched_inodes(os.getpid()) & ours
        first.register(not_watched.fileno(), select.EPOLLIN)
        second.register(watched.fileno(), select.EPOLLIN)
        inodes = proc.epoll_watched_inodes(os.getpid())
        assert os.fstat(watched.fileno()).st_ino in inodes
        assert os.fstat(not_watched.fileno()).st_ino in inodes
        second.unregister(watched.fileno())
        assert os.fstat(watched.fileno()).st_ino not in proc.epoll_watched_inodes(os.getpid())


def test_equal_inode_number_on_another_device_is_not_the_socket() -> None:
    line = b"pos:\t0\ntfd:        7 events:       19 data:                7  pos:0 ino:1f sdev:8\n"
    assert proc._watched(line, 8) == {0x1F}
    assert proc._watched(line, 9) == set()
    assert proc._watched(b"tfd: 7 events: 19 data: 7 ino:", 8) == set()


def test_family() -> None:
    nested = (
        "import subprocess\ncode = 'import sys; print(flush=True); sys.stdin.read()'\n"
        "p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()"
    )
    with python(nested, start_new_session=True) as child:
        (grandchild,) = proc.children(child.pid)
        assert child.pid in proc.children(os.getpid())
        assert proc.descendants(child.pid) == [grandchild]
        descendants = proc.descendants(os.getpid())
        assert descendants.index(child.pid) < descendants.index(grandchild)
        assert proc.process_group_members(child.pid) == [grandchild]


def test_core_limit() -> None:
    with python("import resource\nresource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))") as child:
        proc.set_core_limit(child.pid, 1)
        assert proc.core_limit(child.pid) == (1, 4096)
        proc.empty_core(child.pid)
        assert int(Path(f"/proc/{child.pid}/coredump_filter").read_text(), 16) == 0


@pytest.mark.parametrize(
    "ask",
    [proc.born, proc.ticks, proc.status, proc.cmdline, proc.environ, proc.cwd, proc.descriptors,
     proc.epoll_watched_inodes, proc.core_limit, proc.empty_core],
)  # fmt: skip
def test_a_pid_that_is_gone(ask: object) -> None:
    with pytest.raises(Gone):
        ask(gone_pid())  # type: ignore[operator]


def test_errors_have_kinds() -> None:
    kinds = {2: Gone, 3: Gone, 13: Refused, 1: Refused, 24: Exhausted, 23: Exhausted, 12: Exhausted, 97: Unavailable}
    for number, kind in kinds.items():
        error = from_os(OSError(number, os.strerror(number)), "/proc/1/fd")
        assert type(error) is kind
        assert str(error) == f"/proc/1/fd: {os.strerror(number)}"
    assert type(from_os(OSError(5, "Input/output error"), "x")) is KernelError


def test_full_descriptor_table_is_exhausted() -> None:
    code = """
import os, resource
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
held = []
try:
    while True:
        held.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
for ask in (proc.born, proc.ticks, proc.status, proc.descriptors, proc.environ):
    try:
        ask(os.getpid())
    except Exhausted:
        continue
    raise SystemExit(f'{ask} did not say Exhausted')
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
