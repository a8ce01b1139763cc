"""Can we see here what this project needs to see? What fails is named together with its mend.

Nothing here raises: a lack is an answer. Watching goes on with what is left (ticks need no right at all).
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Gone, KernelError, Refused, Unavailable
from supervisor_uvicorn.kernel.rights import as_owner
from supervisor_uvicorn.kernel.sock_diag import SockDiag

_CAP_SYS_PTRACE = 19  # Linux include/uapi/linux/capability.h
_NOBODY = 65534


@dataclass(frozen=True)
class Lack:
    """Something that we cannot do here: ``what`` fails, and how to ``mend`` it; both are for people."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}; mend: {self.mend}"


def self_test(diag: Callable[[], SockDiag] = SockDiag) -> list[Lack]:
    """Pin a TCP and a unix connection of our own through the very code that pins a worker's; [] if all is well.

    Takes about a millisecond. ``diag`` makes the :class:`SockDiag` to test.
    """
    lacks: list[Lack] = []
    asked = diag()
    try:
        for kind, family, address in (
            ("TCP", socket.AF_INET, ("127.0.0.1", 0)),
            ("unix", socket.AF_UNIX, ""),  # the kernel chooses an abstract name (unix(7), autobind)
        ):
            lack = _pin_our_own(asked, kind, family, address)
            if lack is not None and lack not in lacks:
                lacks.append(lack)
    finally:
        asked.close()
    lack = _may_become_owner()
    return [*lacks, lack] if lack else lacks


def why_unreadable(pid: int) -> Lack | None:
    """None where we may read the descriptors of ``pid``, and so can pin it; else what stands in the way."""
    try:
        proc.find_socket(pid, 0)
    except Gone:
        if _proc_hides() and os.geteuid() != 0:
            return Lack(
                f"pid {pid} is not shown in /proc, which hides other users' processes (hidepid)",
                "run the listener as the worker's user (user= in its section), or mount /proc without hidepid",
            )
        return Lack(f"pid {pid} is not in /proc", "nothing, if it has just ended; else share its pid namespace")
    except Refused:
        return _refused(pid)
    except KernelError as error:
        return Lack(f"pid {pid} cannot be read: {error}", "see the message; a full descriptor table passes by itself")
    return None


def why_exhausted() -> Lack | None:
    """None where a file can be opened; else what there is no more of. Some 20 us."""
    try:
        proc.born(os.getpid())
    except Exhausted as error:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return Lack(
            f"the listener can open no file ({error}); it may open {most}",
            "raise minfds= in [supervisord], or the limit that supervisord was started with (ulimit -n, LimitNOFILE=)",
        )
    except KernelError:
        return None  # not for a lack of descriptors
    return None


def _refused(pid: int) -> Lack:
    try:
        owner = proc.status(pid)
    except KernelError as error:
        return Lack(f"pid {pid} cannot be read: {error}", "run the listener as the worker's user (user=)")
    uid, gid = os.geteuid(), os.getegid()
    what = (
        f"uid {uid} gid {gid} may not read the descriptors of pid {pid}, which runs as uid {owner.uid} gid {owner.gid}"
    )
    if (uid, gid) == (owner.uid, owner.gid):
        return Lack(
            f"{what} and is marked as not dumpable",
            "give the listener CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE), or start the worker from a program"
            " file that its user may read and that has no set-uid bit",
        )
    if uid == 0:
        return Lack(
            what, "give the listener CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE), or CAP_SETUID and CAP_SETGID"
        )
    return Lack(what, "run the listener as the worker's user (user= in its section) or as root")


def _pin_our_own(diag: SockDiag, kind: str, family: int, address: tuple[str, int] | str) -> Lack | None:
    try:
        with socket.socket(family) as listener, socket.socket(family) as ours:
            listener.settimeout(1.0)
            ours.settimeout(1.0)
            listener.bind(address)
            listener.listen(1)
            ours.connect(listener.getsockname())
            ours.send(b"x")
            before = diag.far_end(ours)
            accepted, _ = listener.accept()
            with accepted:
                after = diag.far_end(ours)
                inode = os.fstat(accepted.fileno()).st_ino
                accepted.recv(1)
                read = diag.far_end(ours)
                fd = proc.find_socket(os.getpid(), inode)
                expected_fd = accepted.fileno()
    except Unavailable as error:
        return Lack(
            f"the kernel's socket table cannot be asked ({error})",
            "allow AF_NETLINK: not under gVisor (runsc); with systemd's RestrictAddressFamilies= add AF_NETLINK;"
            " or see the container's seccomp profile",
        )
    except (KernelError, OSError) as error:
        return Lack(f"a {kind} connection of our own cannot be pinned ({error})", "see the message")
    if before is None or after is None or read is None:
        module = "tcp_diag" if family == socket.AF_INET else "unix_diag"
        return Lack(
            f"the kernel's socket table shows no {kind} sockets",
            f"load the module on the host: modprobe {module}. Under gVisor (runsc) there is none",
        )
    if before.inode != 0 or after.inode != inode or fd != expected_fd or not after.unread_bytes or read.unread_bytes:
        return Lack(
            f"the kernel's socket table is wrong about a {kind} connection of our own ({before}, {after}, {read},"
            f" inode {inode}, descriptor {fd})",
            "no pin can be trusted on this kernel; please report its version (uname -a)",
        )
    return None


def _may_become_owner() -> Lack | None:
    """root without CAP_SYS_PTRACE reads other users' processes in their name: may it?"""
    if os.geteuid() != 0:
        return None  # then only a given worker's owner tells: why_unreadable()
    try:
        if proc.status(os.getpid()).capabilities >> _CAP_SYS_PTRACE & 1:
            return None
        with as_owner(_NOBODY, _NOBODY):
            return None
    except KernelError as error:
        return Lack(
            f"root may not read other users' processes here ({error})",
            "give the listener CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE), or run it as the workers' user: user=",
        )


def _proc_hides() -> bool:
    try:
        with open("/proc/self/mounts") as mounts:
            options = [line.split()[3] for line in mounts if line.split()[1:3] == ["/proc", "proc"]]
    except (OSError, IndexError):
        return False
    return any(
        option.startswith("hidepid=") and option not in ("hidepid=0", "hidepid=off")
        for option in ",".join(options).split(",")
    )
