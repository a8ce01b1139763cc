"""Processes of other users, with and without capabilities. All of it takes root; without, the tests are skipped."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from harness import interpreter

NOBODY = pwd.getpwnam("nobody")

# In a mount namespace of its own the one closed directory on the way to the interpreter is replaced by an open one that
# holds only what leads there. The process namespace stays the common one.
_OPEN_THE_WAY = """
set -e
aside=$(mktemp -d /tmp/su-way.XXXXXX)
mount --bind "$1" "$aside"
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/$2"
mount --bind "$aside/$2" "$1/$2"
umount "$aside"
rmdir "$aside"
shift 2
exec "$@"
"""


def is_root() -> bool:
    return os.geteuid() == 0


@functools.cache
def way_prefix() -> list[str] | None:
    """What to put before a command so that any user can run the interpreter under test; None: there is no such way.

    A developer's interpreter may lie in a home directory that nobody else may enter (``/root/.pyenv``).
    """
    path = Path(os.path.realpath(interpreter.python()))
    closed = [parent for parent in path.parents if not parent.stat().st_mode & 0o001]
    if not closed:
        return []
    if len(closed) > 1 or not shutil.which("unshare"):
        return None
    inside = path.relative_to(closed[0]).parts[0]
    prefix = ["unshare", "--mount", "sh", "-c", _OPEN_THE_WAY, "sh", str(closed[0]), inside]
    works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if works else None


def without_ptrace(command: str) -> str:
    """A command for a ``command=`` line, without CAP_SYS_PTRACE: what root has in an ordinary container."""
    return f"setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace {command}"
