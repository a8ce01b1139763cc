"""The names of the system calls in which a process can be found waiting.

The numbers are each architecture's own: Linux ``arch/x86/entry/syscalls/syscall_64.tbl`` and, for arm64,
``include/uapi/asm-generic/unistd.h``; they never change. Elsewhere, and for a
call that is not here, the number is told.
"""

from __future__ import annotations

import os

_X86_64 = {
    0: "read", 1: "write", 2: "open", 3: "close", 7: "poll", 9: "mmap", 11: "munmap", 16: "ioctl", 17: "pread64",
    18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 24: "sched_yield", 28: "madvise", 34: "pause",
    35: "nanosleep", 40: "sendfile", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
    47: "recvmsg", 56: "clone", 57: "fork", 58: "vfork", 59: "execve", 61: "wait4", 65: "semop", 69: "msgsnd",
    70: "msgrcv", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 77: "ftruncate", 128: "rt_sigtimedwait",
    130: "rt_sigsuspend", 202: "futex", 217: "getdents64", 219: "restart_syscall", 220: "semtimedop",
    230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "openat", 262: "newfstatat", 270: "pselect6",
    271: "ppoll", 275: "splice", 281: "epoll_pwait", 288: "accept4", 299: "recvmmsg", 307: "sendmmsg",
    326: "copy_file_range", 426: "io_uring_enter", 435: "clone3", 441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
_ARM64 = {
    22: "epoll_pwait", 25: "fcntl", 29: "ioctl", 32: "flock", 46: "ftruncate", 56: "openat", 57: "close",
    61: "getdents64", 63: "read", 64: "write", 65: "readv", 66: "writev", 67: "pread64", 68: "pwrite64",
    71: "sendfile", 72: "pselect6", 73: "ppoll", 76: "splice", 79: "newfstatat", 82: "fsync", 83: "fdatasync",
    95: "waitid", 98: "futex", 101: "nanosleep", 115: "clock_nanosleep", 124: "sched_yield", 128: "restart_syscall",
    133: "rt_sigsuspend", 137: "rt_sigtimedwait", 188: "msgrcv", 189: "msgsnd", 192: "semtimedop", 193: "semop",
    202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 215: "munmap",
    220: "clone", 221: "execve", 222: "mmap", 233: "madvise", 242: "accept4", 243: "recvmmsg", 260: "wait4",
    269: "sendmmsg", 285: "copy_file_range", 426: "io_uring_enter", 435: "clone3", 441: "epoll_pwait2",
    449: "futex_waitv",
}  # fmt: skip
_TABLES = {"x86_64": _X86_64, "aarch64": _ARM64}

_OF_A_DESCRIPTOR = frozenset({
    "read", "write", "pread64", "pwrite64", "readv", "writev", "ioctl", "connect", "accept", "accept4", "sendto",
    "recvfrom", "sendmsg", "recvmsg", "recvmmsg", "sendmmsg", "fcntl", "flock", "fsync", "fdatasync", "ftruncate",
    "getdents64",
})  # fmt: skip


def name_of(number: int, machine: str | None = None) -> str:
    """``recvfrom``, or ``system call 999``. ``machine`` as in uname(2), else this one's."""
    known = _TABLES.get(os.uname().machine if machine is None else machine, {})
    return known.get(number, f"system call {number}")


def takes_descriptor(name: str) -> bool:
    """Is the first argument of that call a file descriptor? Then what it waits for can be named."""
    return name in _OF_A_DESCRIPTOR
