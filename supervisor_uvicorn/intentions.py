"""What we are about to do to whom, written down first, so that the next listener can finish it.

supervisord brings most workers back by itself, but not all (``autorestart=false``, an exit code of 0), and before
supervisor 4.4 it does not tell which. So each remedy is written into one small file before its first signal, and
taken out when the new pid is healthy. The file belongs to one supervisord (its pid, its birth, and the boot that the
birth counts from): another one has no use for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .kernel import proc
from .kernel.errors import Gone, KernelError
from .ledger import Reason, Remedy, Restart
from .model import Address, Member, WorkerId


@dataclass(frozen=True)
class Intention:
    """One remedy under way, or one name that is ours until it is healthy."""

    name: str
    pid: int
    born: int
    reason: str
    remedy: str
    detail: str = ""
    signalled: bool = False  # a signal of the remedy has been sent: it is finished, not judged anew
    fd: int | None = None  # its --fd and its listening socket: before it is started again, the socket must be free
    socket: Address | None = None

    @classmethod
    def of(cls, order: Restart, member: Member) -> Intention:
        """What is to be written down before ``order`` is carried out on ``member``."""
        worker, reason, remedy = order.worker, order.reason.value, order.remedy.value
        fd, socket = member.options.fd, member.socket
        return cls(worker.name, worker.pid, worker.born, reason, remedy, order.detail, fd=fd, socket=socket)

    @property
    def worker(self) -> WorkerId:
        return WorkerId(self.name, self.pid, self.born)


class Intentions:
    """A small file of :class:`Intention`, whole after every change. Safe to use from several threads.

    Where it cannot be written the intentions are kept in memory alone, and :attr:`trouble` says so.
    """

    def __init__(self, path: Path | None, trouble: str = "") -> None:
        """``path`` None: memory alone, and ``trouble`` says why."""
        self._path = path
        self._lock = threading.Lock()
        self.trouble = trouble
        self._entries: dict[str, Intention] = {}

    @classmethod
    def of_supervisord(cls, pid: int, born: int, directory: Path | None = None) -> Intentions:
        """The file of one supervisord, in a directory that only this user can write."""
        try:
            where = directory or Path(tempfile.gettempdir()) / f"supervisor-uvicorn-{os.geteuid()}"
        except OSError as error:  # FileNotFoundError: no directory that can be written (a read-only container)
            return cls(None, f"{error.strerror or error} (set TMPDIR to one that can be written)")
        return cls(where / f"{pid}-{born}-{_boot()}.json")

    def load(self) -> dict[str, Intention]:
        """What an earlier listener has left; nothing where there is no file, or one that cannot be trusted or read.

        Removes what supervisords that have ended left in the same directory.
        """
        with self._lock:
            if self._path is None:
                return dict(self._entries)
            try:
                self._trust(self._path.parent)
                self._remove_stale(self._path)
                entries = [_intention(entry) for entry in json.loads(self._path.read_text())]
                self._entries = {entry.name: entry for entry in entries}
            except FileNotFoundError:
                pass
            except (OSError, ValueError, TypeError) as error:
                self.trouble = f"{self._path}: {error}"
            return dict(self._entries)

    @staticmethod
    def _remove_stale(ours: Path) -> None:
        for path in ours.parent.iterdir():
            parts = path.stem.split("-")
            if path == ours or len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
                continue
            whole = path.suffix == ".json"  # else half a file of a writer that died in the middle
            if parts[2] == _boot() and _lives(int(parts[0]), int(parts[1])) and whole:
                continue
            if whole or _writer_is_gone(path.suffix):
                with contextlib.suppress(OSError):
                    path.unlink()

    def put(self, intention: Intention) -> None:
        """Write it down; on the disk when this returns."""
        with self._lock:
            self._entries[intention.name] = intention
            self._write()

    def keep_only(self, names: Mapping[str, object]) -> None:
        """Take out all that are no longer ours."""
        with self._lock:
            kept = {name: entry for name, entry in self._entries.items() if name in names}
            if len(kept) != len(self._entries):
                self._entries = kept
                self._write()

    def mark_signalled(self, worker: WorkerId) -> None:
        """The first signal is about to be sent."""
        with self._lock:
            entry = self._entries.get(worker.name)
            if entry is not None and entry.worker == worker and not entry.signalled:
                self._entries[worker.name] = replace(entry, signalled=True)
                self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            directory = self._path.parent
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            self._trust(directory)
            if not self._entries:
                self._path.unlink(missing_ok=True)
                return
            half = self._path.with_suffix(f".{os.getpid()}")
            try:
                with open(half, "w") as file:
                    json.dump([asdict(entry) for entry in self._entries.values()], file)
                    file.flush()
                    os.fsync(file.fileno())
                half.replace(self._path)
            except BaseException:
                half.unlink(missing_ok=True)
                raise
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror or error}"

    @staticmethod
    def _trust(directory: Path) -> None:
        """Another user who can write there could make us start or end what he likes."""
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise OSError(f"{directory} is not a directory that only uid {os.geteuid()} can write")


def _intention(entry: object) -> Intention:
    """One entry as another version, or nobody of us, may have written it; raises ValueError where it is none."""
    if not isinstance(entry, dict):
        raise ValueError("no list of intentions")
    numbers = {key: entry.get(key) for key in ("pid", "born")}
    texts = {key: entry.get(key, "") for key in ("name", "reason", "remedy", "detail")}
    if not all(isinstance(text, str) for text in texts.values()) or not texts["name"]:
        raise ValueError(f"an intention without its words: {entry!r:.200}")
    if not all(isinstance(number, int) and number > 0 for number in numbers.values()):
        raise ValueError(f"an intention without pid or born: {entry!r:.200}")
    Reason(texts["reason"])
    Remedy(texts["remedy"])
    fd, socket = entry.get("fd"), _address(entry.get("socket"))
    return Intention(
        **numbers,  # type: ignore[arg-type]
        **texts,
        signalled=entry.get("signalled") is True,
        fd=fd if isinstance(fd, int) else None,
        socket=socket,
    )


def _address(entry: object) -> Address | None:
    if not isinstance(entry, dict):
        return None
    family, host, port, path = (entry.get(key) for key in ("family", "host", "port", "path"))
    if isinstance(family, str) and isinstance(host, str) and isinstance(port, int) and isinstance(path, str):
        return Address(family, host, port, path)
    return None


def _boot() -> str:
    """Eight characters that tell this boot from every other (random(4), ``boot_id``); "0" where there are none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "0"


def _lives(pid: int, born: int) -> bool:
    try:
        return proc.born(pid) == born
    except Gone:
        return False
    except KernelError:
        return True


def _writer_is_gone(suffix: str) -> bool:
    pid = suffix[1:]
    if not pid.isdecimal():
        return False
    try:
        proc.born(int(pid))
    except Gone:
        return True
    except KernelError:
        pass
    return False
