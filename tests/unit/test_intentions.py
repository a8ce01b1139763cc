"""The file of intentions: whole after every change, read with suspicion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from harness.interpreter import ROOT

from supervisor_uvicorn.intentions import Intention, Intentions
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.ledger import Reason, Remedy, Restart
from supervisor_uvicorn.model import Address, Member, Options, State, WorkerId

ONE = Intention("web:web-0", 4711, 99, "silent", "abort", "for 2 s")
AT = Intention("web:web-2", 1, 2, "silent", "abort", fd=0, socket=Address("tcp6", "::1", 8000))
TWO = Intention("web:web-1", 4712, 98, "failing", "drain")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ours"


def of_ourselves(directory: Path) -> Intentions:
    return Intentions.of_supervisord(os.getpid(), proc.born(os.getpid()), directory)


def test_the_socket_is_remembered(directory: Path) -> None:
    first = of_ourselves(directory)
    order = Restart(AT.worker, Remedy.ABORT, Reason.SILENT, "")
    member = Member(AT.name, State.RUNNING, AT.pid, AT.born, socket=AT.socket, options=Options(fd=0))
    assert Intention.of(order, member) == AT
    first.put(AT)
    first.mark_signalled(AT.worker)
    found = of_ourselves(directory).load()[AT.name]
    assert (found.fd, found.socket, found.signalled) == (0, AT.socket, True)
    for odd in ({}, "tcp://", {"family": "tcp", "host": 1, "port": 2, "path": ""}, None):
        the_file(directory).write_text(json.dumps([{**AT.__dict__, "socket": odd, "fd": "0"}]))
        found = of_ourselves(directory).load()[AT.name]
        assert (found.fd, found.socket) == (None, None)


def the_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_what_was_put_is_there_for_the_next_listener(directory: Path) -> None:
    first = of_ourselves(directory)
    assert first.load() == {}
    assert first.trouble == "", "no file is no trouble"
    first.put(ONE)
    first.put(TWO)
    first.mark_signalled(WorkerId("web:web-0", 4711, 99))
    first.mark_signalled(WorkerId("web:web-1", 4712, 1))  # another process of that name: not the one that was meant
    assert directory.stat().st_mode & 0o777 == 0o700

    second = of_ourselves(directory)
    found = second.load()
    assert found["web:web-0"].signalled
    assert found["web:web-0"].worker == WorkerId("web:web-0", 4711, 99)
    assert found["web:web-1"] == TWO
    second.keep_only({"web:web-1": None})
    assert list(of_ourselves(directory).load()) == ["web:web-1"]
    second.keep_only({})
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '[{"name": "web:web-0", "pid": 47',
        "[1]",
        "{}x",
        '{"name": "web:web-0"}',
        "null",
        '[{"name": "web:web-0"}]',
        json.dumps([{**ONE.__dict__, "reason": "of a later version"}]),
        json.dumps([{**ONE.__dict__, "remedy": "?"}]),
        json.dumps([{**ONE.__dict__, "pid": "4711"}]),
        json.dumps([{**ONE.__dict__, "pid": -1}]),
        json.dumps([{**ONE.__dict__, "name": ["web"]}]),
        "\x00\xff",
    ],
)
def test_a_torn_or_foreign_file_is_said_and_replaced(directory: Path, content: str) -> None:
    of_ourselves(directory).put(ONE)
    the_file(directory).write_bytes(content.encode("latin-1"))
    intentions = of_ourselves(directory)
    assert intentions.load() == {}
    assert str(directory) in intentions.trouble
    intentions.put(TWO)
    assert intentions.trouble == ""
    assert of_ourselves(directory).load() == {"web:web-1": TWO}


def test_a_key_of_a_later_version_is_no_hindrance(directory: Path) -> None:
    of_ourselves(directory).put(ONE)
    the_file(directory).write_text(json.dumps([{**ONE.__dict__, "later": 1}]))
    assert of_ourselves(directory).load() == {"web:web-0": ONE}


def test_a_directory_that_others_can_write_is_not_trusted(directory: Path) -> None:
    of_ourselves(directory).put(ONE)
    for mode in (0o777, 0o720, 0o1777):
        directory.chmod(mode)
        intentions = of_ourselves(directory)
        assert intentions.load() == {}
        assert "only uid" in intentions.trouble
        intentions.put(TWO)  # kept in memory alone
        assert "only uid" in intentions.trouble
    directory.chmod(0o700)
    assert of_ourselves(directory).load() == {"web:web-0": ONE}


def test_a_symlink_in_the_directorys_place_is_not_followed(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    intentions = of_ourselves(directory)
    intentions.put(ONE)
    assert intentions.trouble
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_another_users_directory_is_not_trusted(directory: Path) -> None:
    of_ourselves(directory).put(ONE)
    os.chown(directory, 65534, 65534)
    intentions = of_ourselves(directory)
    assert intentions.load() == {}
    assert intentions.trouble


def test_a_file_in_the_directorys_place_and_no_place_at_all(directory: Path, tmp_path: Path) -> None:
    directory.write_text("")
    for where in (directory, tmp_path / "no" / "such"):
        intentions = of_ourselves(where)
        intentions.put(ONE)
        assert intentions.trouble
        intentions.keep_only({})


READ_ONLY = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from supervisor_uvicorn.intentions import Intention, Intentions
intentions = Intentions.of_supervisord(1, 1, Path({directory!r}))
intentions.load()
intentions.put(Intention("web:web-0", 2, 3, "silent", "abort"))
intentions.mark_signalled(Intention("web:web-0", 2, 3, "silent", "abort").worker)
intentions.keep_only({{}})
print(intentions.trouble)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="takes root and unshare")
def test_a_read_only_file_system_is_said_and_nothing_more(directory: Path) -> None:
    of_ourselves(directory).put(ONE)
    code = READ_ONLY.format(root=str(ROOT), directory=str(directory))
    mount = f"mount --bind {directory} {directory} && mount -o remount,bind,ro {directory} && exec "
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount + '"$@"', "sh", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "Read-only file system" in done.stdout


def test_a_full_disk_leaves_the_old_file_and_no_half_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intentions = of_ourselves(directory)
    intentions.put(ONE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    intentions.put(TWO)
    assert "No space left" in intentions.trouble
    monkeypatch.undo()
    assert of_ourselves(directory).load() == {"web:web-0": ONE}
    assert the_file(directory).suffix == ".json"


def test_it_is_on_the_disk_before_put_returns(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(fd: int) -> None:
        order.append("fsync")
        sync(fd)

    def replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    of_ourselves(directory).put(ONE)
    assert order == ["fsync", "rename"]


def test_used_by_several_threads_nothing_is_lost(directory: Path) -> None:
    intentions = of_ourselves(directory)
    names = [f"web:web-{number}" for number in range(40)]
    kept = dict.fromkeys(names)

    def work(mine: list[str]) -> None:
        for name in mine:
            intentions.put(Intention(name, 5, 6, "silent", "abort"))
            intentions.mark_signalled(WorkerId(name, 5, 6))
            intentions.keep_only(kept)

    threads = [threading.Thread(target=work, args=(names[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = of_ourselves(directory).load()
    assert sorted(found) == sorted(names)
    assert all(entry.signalled for entry in found.values())


def test_what_dead_supervisords_left_is_removed(directory: Path) -> None:
    ours = of_ourselves(directory)
    ours.put(ONE)
    mine = the_file(directory)
    boot = mine.stem.split("-")[2]
    child = subprocess.Popen(["sleep", "60"])
    try:
        living = directory / f"{child.pid}-{proc.born(child.pid)}-{boot}.json"
        reused = directory / f"{child.pid}-1-{boot}.json"
        of_another_boot = directory / f"{child.pid}-{proc.born(child.pid)}-00000000.json"
        gone = subprocess.Popen(["true"])
        gone.wait()
        dead = directory / f"{gone.pid}-77-{boot}.json"
        half = directory / f"{os.getpid()}-{proc.born(os.getpid())}-{boot}.{gone.pid}"
        foreign = directory / "notes.txt"
        for path in (living, reused, of_another_boot, dead, half, foreign):
            path.write_text("[]")
        assert of_ourselves(directory).load() == {"web:web-0": ONE}
        assert set(directory.iterdir()) == {mine, living, foreign}
    finally:
        child.kill()
        child.wait()


def test_without_any_temporary_directory_they_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only container: tempfile itself raises."""

    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    intentions = Intentions.of_supervisord(os.getpid(), proc.born(os.getpid()))
    assert intentions.load() == {}
    assert "No usable temporary directory" in intentions.trouble
    assert "TMPDIR" in intentions.trouble
    intentions.put(ONE)
    intentions.mark_signalled(ONE.worker)
    assert intentions.load()[ONE.name].signalled
    intentions.keep_only({})
    assert intentions.load() == {}
    assert intentions.trouble
