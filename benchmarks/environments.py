"""A virtual environment for each peer, made here from the package index and kept for the next run.

The peers want different things, and a user has each alone; so each gets its own environment, of the Python that runs
the benchmark. Versions are not pinned: the newest are measured, and which they were is written down with the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ROOT

CHECKOUT = "supervisor-uvicorn"  # in the requirements: this checkout, not what the index has by that name
CACHE = Path(tempfile.gettempdir()) / "supervisor-uvicorn-benchmarks"
SOURCES = ["supervisor_uvicorn", "setup.py", "pyproject.toml", "README.rst", "LICENSE", "MANIFEST.in"]
VENV_TIMEOUT_S, PIP_TIMEOUT_S = 120, 900


class CannotInstall(Exception):  # noqa: N818 - it reads as what it is
    """pip said no; the message is the end of what it said."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """One that is ready. ``versions``: of every distribution in it, by name."""

    name: str
    python: Path
    versions: dict[str, str]

    def command(self, name: str) -> str:
        """The path of a command that is installed there."""
        return str(self.python.parent / name)


def prepare(name: str, requirements: Sequence[str], cache: Path = CACHE, *, fresh: bool = False) -> Environment:
    """The environment ``name`` with these requirements, made if it is not there (``fresh``: made anew).

    :data:`CHECKOUT` is installed as a copy, anew where its files have changed. Raises :class:`CannotInstall`.
    """
    version = "{}.{}".format(*sys.version_info[:2])
    home = cache / f"{name}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(home.with_suffix(".lock")):
        wanted = [one for one in requirements if one != CHECKOUT]
        note = home / "requirements.json"
        if fresh or not note.exists() or json.loads(note.read_text()) != wanted:
            shutil.rmtree(home, ignore_errors=True)
            _make(home)
            _pip(home, wanted)
            note.write_text(json.dumps(wanted))
        if CHECKOUT in requirements:
            _install_checkout(home)
        return Environment(name, home / "bin" / "python", _versions(home))


def _make(home: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "venv", home], capture_output=True, text=True, timeout=VENV_TIMEOUT_S)
    if done.returncode:
        raise CannotInstall(f"python -m venv: {(done.stderr or done.stdout).strip()[-300:]}")


def _pip(home: Path, arguments: Sequence[str]) -> None:
    command = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*command, "install", "--quiet", *arguments], capture_output=True, text=True, timeout=PIP_TIMEOUT_S
    )
    if done.returncode:
        raise CannotInstall(f"pip install {' '.join(arguments)}: {done.stderr.strip()[-500:]}")


def _install_checkout(home: Path) -> None:
    """From a copy: a build writes beside the sources, and others may be at work on them."""
    note = home / "checkout.txt"
    with tempfile.TemporaryDirectory(prefix="su-source-") as scratch:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(scratch, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, scratch)
        digest = _digest(Path(scratch))
        if note.exists() and note.read_text() == digest:
            return
        _pip(home, [scratch])  # what it depends on, where that is not there yet
        _pip(home, ["--force-reinstall", "--no-deps", scratch])  # the same version number, other files
    note.write_text(digest)


def _digest(directory: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _versions(home: Path) -> dict[str, str]:
    command = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "list", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return {one["name"].lower(): one["version"] for one in json.loads(done.stdout)}


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two benchmarks that start at once must not make the same environment."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
