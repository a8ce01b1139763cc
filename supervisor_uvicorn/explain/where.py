"""What the kernel shows of a process that does not move: its state, where it sleeps, in which system call, for what."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_uvicorn.explain import syscalls
from supervisor_uvicorn.explain.frames import within
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.connections import Connection
from supervisor_uvicorn.kernel.errors import KernelError, Refused

_WCHAN_CHARACTERS = 64
_LINK_BYTES = 120


@dataclass(frozen=True)
class Where:
    """``state`` is one letter of proc(5), "" for no process. ``fd`` is what the system call waits for, or None."""

    state: str = ""
    wchan: str = ""
    call: str = ""
    fd: int | None = None
    refused: str = ""  # why the system call is not known


def where(pid: int) -> Where:
    """Three small files; raises nothing."""
    try:
        state = proc.status(pid).state
        wchan = proc.wchan(pid)
    except KernelError:
        return Where()
    try:
        found = proc.syscall(pid)
    except Refused:
        return Where(state, wchan[:_WCHAN_CHARACTERS], refused="not permitted to see its system call")
    except KernelError:  # gone in between, or a kernel without it (CONFIG_HAVE_ARCH_TRACEHOOK)
        return Where(state, wchan[:_WCHAN_CHARACTERS])
    if found is None:
        return Where(state, wchan[:_WCHAN_CHARACTERS])
    number, arguments = found
    call = syscalls.name_of(number)
    fd = arguments[0] & 0xFFFFFFFF if syscalls.takes_descriptor(call) else None
    return Where(state, wchan[:_WCHAN_CHARACTERS], call, fd)


def waits_for(pid: int, found: Where, inodes: dict[int, Connection]) -> str:
    """The system call in words: ``recvfrom, descriptor 15: 10.0.0.5:5432``. ``inodes``: who is connected with whom."""
    if found.fd is None:
        return found.call
    try:
        link = proc.descriptor_link(pid, found.fd)
    except KernelError:
        return f"{found.call}, descriptor {found.fd}"
    if link.startswith("socket:["):
        connection = inodes.get(int(link[8:-1]))
        far_end = connection.far_end if connection else ""
        path = connection.path.replace("\0", "@", 1) if connection else ""
        link = far_end or (f"a unix socket {path}" if path else "a socket")
    return f"{found.call}, descriptor {found.fd}: {within(link, _LINK_BYTES)}"
