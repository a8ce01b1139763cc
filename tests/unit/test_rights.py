"""root without CAP_SYS_PTRACE, as in a container, reads another user's process by taking its file-system identity."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest

from supervisor_uvicorn.kernel.errors import Refused
from supervisor_uvicorn.kernel.rights import as_owner, fs_ids
from supervisor_uvicorn.kernel.selftest import self_test, why_unreadable
from supervisor_uvicorn.kernel.sock_diag import SockDiag

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give itself less")
NOBODY = 65534

READ_A_WORKER_OF_NOBODY = """
import os, socket, subprocess, sys
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.rights import fs_ids
from supervisor_uvicorn.kernel.selftest import self_test, why_unreadable
mine = os.geteuid(), os.getegid()
listening = socket.socket()
listening.bind(('127.0.0.1', 0))
listening.listen()
code = ("import select, socket; s = socket.socket(fileno=0); e = select.epoll(); e.register(s, select.EPOLLIN);"
        "print(flush=True); e.poll()")
worker = subprocess.Popen(['/usr/bin/setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', PYTHON, '-c', code],
                          stdin=listening, stdout=subprocess.PIPE, env={'SECRET': '1'}, cwd='/')
try:
    assert worker.stdout.readline() == b'\\n'
    inode = os.fstat(listening.fileno()).st_ino
    with open('/proc/self/status') as f:
        effective = next(int(line.split()[1], 16) for line in f if line.startswith('CapEff'))
    assert not effective >> 19 & 1, 'this test is about a root without CAP_SYS_PTRACE'
    assert proc.status(worker.pid).uid == 65534
    assert proc.socket_inode(worker.pid, 0) == inode
    assert proc.find_socket(worker.pid, inode) == 0
    assert inode in proc.epoll_watched_inodes(worker.pid)
    assert proc.environ(worker.pid)['SECRET'] == '1'
    assert proc.cwd(worker.pid) == '/'
    assert fs_ids() == mine, fs_ids()
    assert self_test() == [] and why_unreadable(worker.pid) is None
finally:
    worker.kill()
    worker.wait()
"""


def without(caps: str, code: str) -> subprocess.CompletedProcess[bytes]:
    command = [shutil.which("setpriv") or "setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
    return subprocess.run([*command, sys.executable, "-c", code], timeout=60, stderr=subprocess.PIPE)


@needs_root
def test_root_without_ptrace_reads_a_worker_of_another_user() -> None:
    # nobody may not be able to reach a virtual environment under somebody's home: the system's Python will do
    python = os.path.realpath("/usr/bin/python3") if os.path.exists("/usr/bin/python3") else sys.executable
    done = without("-sys_ptrace", READ_A_WORKER_OF_NOBODY.replace("PYTHON", repr(python)))
    assert done.returncode == 0, done.stderr.decode()


@needs_root
def test_root_that_may_not_change_its_ids_says_what_it_lacks() -> None:
    code = """
from supervisor_uvicorn.kernel.selftest import self_test
lacks = self_test()
assert len(lacks) == 1 and 'SYS_PTRACE' in lacks[0].mend, lacks
"""
    done = without("-sys_ptrace,-setuid,-setgid", code)
    assert done.returncode == 0, done.stderr.decode()


@needs_root
def test_a_third_user_is_told_the_mend() -> None:
    worker = subprocess.Popen(["sleep", "60"])
    try:
        code = f"""
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Refused
from supervisor_uvicorn.kernel.selftest import self_test, why_unreadable
assert self_test() == []
lack = why_unreadable({worker.pid})
assert 'user=' in lack.mend and 'uid 65534' in lack.what, lack
try:
    proc.descriptors({worker.pid})
except Refused:
    pass
else:
    raise SystemExit('not refused')
proc.ticks({worker.pid})
"""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:  # a fork that gives itself away: the modules are imported already, wherever they are
            os.close(reader)
            code_of_exit = 1
            try:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                exec(compile(code, "child", "exec"), {})
                code_of_exit = 0
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent shall read it
                os.write(writer, repr(error).encode())
            finally:
                os._exit(code_of_exit)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode()
        assert os.waitpid(pid, 0)[1] == 0, said
    finally:
        worker.kill()
        worker.wait()


@needs_root
def test_only_this_thread_changes_and_it_changes_back() -> None:
    mine = fs_ids()
    others: list[tuple[int, int]] = []
    with as_owner(NOBODY, NOBODY):
        assert fs_ids() == (NOBODY, NOBODY)
        thread = threading.Thread(target=lambda: others.append(fs_ids()))
        # A new thread inherits from the one that starts it; one that was there before must not change.
        thread.start()
        thread.join()
    assert fs_ids() == mine
    with pytest.raises(ZeroDivisionError), as_owner(NOBODY, NOBODY):
        _ = 1 // 0
    assert fs_ids() == mine


@needs_root
def test_another_thread_keeps_its_identity() -> None:
    mine = fs_ids()
    seen: list[tuple[int, int]] = []
    go, done = threading.Event(), threading.Event()

    def other() -> None:
        go.wait(10)
        seen.append(fs_ids())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with as_owner(NOBODY, NOBODY):
        go.set()
        assert done.wait(10)
    thread.join()
    assert seen == [mine]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_who_is_not_root_is_refused() -> None:
    with pytest.raises(Refused), as_owner(NOBODY, NOBODY):
        pass


def test_all_is_well_here() -> None:
    assert self_test() == []
    assert why_unreadable(os.getpid()) is None


def test_no_netlink_is_named_with_its_mend() -> None:
    class Without(SockDiag):
        def _converse(self, request: bytes, flags: int) -> list[tuple[int, bytes]]:
            raise OSError(97, "Address family not supported by protocol")

    (lack,) = self_test(Without)
    assert "AF_NETLINK" in lack.mend
    assert "gVisor" in lack.mend


def test_a_table_without_tcp_is_named() -> None:
    class Without(SockDiag):
        def tcp_far_end(self, connection: object) -> None:
            return None

    (lack,) = self_test(Without)
    assert "modprobe tcp_diag" in lack.mend
