"""Take another user's file-system identity for one thread and one question.

Reading another process' ``fd``, ``fdinfo`` or ``environ`` takes the same uid and gid, or CAP_SYS_PTRACE (ptrace(2),
"ptrace access mode checking", PTRACE_MODE_READ_FSCREDS). root in a container lacks that capability by default, but it
may set the *file-system* uid and gid of one thread (setfsuid(2)), and these are what the kernel compares.

The price: the kernel marks our own process as not dumpable (prctl(2), PR_SET_DUMPABLE). For a root process that changes
nothing that we use.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator

from supervisor_uvicorn.kernel.errors import KernelError, Refused

_ASK = 0xFFFFFFFF  # (uid_t) -1 is never valid: the call changes nothing and answers what is set (setfsuid(2), BUGS)


@functools.lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    # The C library's wrappers of these two are plain system calls, so they change the calling thread alone; those of
    # setuid() and its kin would change every thread.
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (libc.setfsuid, libc.setfsgid):
        call.argtypes = [ctypes.c_uint]
        call.restype = ctypes.c_int
    return libc


def fs_ids() -> tuple[int, int]:
    """This thread's file-system uid and gid."""
    libc = _libc()
    return libc.setfsuid(_ASK) & _ASK, libc.setfsgid(_ASK) & _ASK


@contextlib.contextmanager
def as_owner(uid: int, gid: int) -> Iterator[None]:
    """Inside, this thread reads files and ``/proc`` as ``uid`` and ``gid``; always undone at the end.

    Raises :class:`Refused` where this thread may not do that (not root, or no CAP_SETUID and CAP_SETGID), and
    :class:`KernelError` if its own identity does not come back, which no kernel is known to do.
    """
    if os.geteuid() != 0:
        raise Refused(f"only root can read as uid {uid}")
    libc = _libc()
    own_uid, own_gid = fs_ids()
    try:
        libc.setfsgid(gid)  # the group first: with the uid given away nothing more may be changed but the way back
        libc.setfsuid(uid)
        if fs_ids() != (uid, gid):
            raise Refused(f"may not read as uid {uid} and gid {gid}: CAP_SETUID and CAP_SETGID are needed")
        yield
    finally:
        libc.setfsuid(own_uid)
        libc.setfsgid(own_gid)
        if fs_ids() != (own_uid, own_gid):
            raise KernelError(f"this thread's file-system identity {own_uid}:{own_gid} did not come back")
