"""What can go wrong when the kernel is asked about another process: four causes, each with its own consequence.

Nothing of this is ever evidence against a worker: it is our own limit or fault (design, "forgive ourselves").
"""

from __future__ import annotations

import errno


class KernelError(Exception):
    """The kernel did not tell what was asked; the message says what was asked and what it answered."""


class Gone(KernelError):  # noqa: N818 - it reads as what it is
    """No such process (ENOENT or ESRCH). With ``hidepid=2`` a living process of another user looks like this, too."""


class Refused(KernelError):  # noqa: N818 - it reads as what it is
    """The kernel forbids the question (EACCES or EPERM)."""


class Exhausted(KernelError):  # noqa: N818 - it reads as what it is
    """We, or the machine, have no descriptor or memory left for the question (EMFILE, ENFILE, ENOMEM, ENOBUFS)."""


class Unavailable(KernelError):  # noqa: N818 - it reads as what it is
    """This kernel or sandbox does not have the interface at all, for example no ``AF_NETLINK`` under gVisor."""


_GONE = frozenset({errno.ENOENT, errno.ESRCH})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS, errno.EOPNOTSUPP})


def from_os(error: OSError, asked: str) -> KernelError:
    """The right kind of :class:`KernelError` for ``error``; ``asked`` names the question, for example a path."""
    if error.errno in _GONE:
        kind: type[KernelError] = Gone
    elif error.errno in _REFUSED:
        kind = Refused
    elif error.errno in _EXHAUSTED:
        kind = Exhausted
    elif error.errno in _UNAVAILABLE:
        kind = Unavailable
    else:
        kind = KernelError
    return kind(f"{asked}: {error.strerror or error}")
