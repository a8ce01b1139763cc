"""The README's demo on a fresh clone with nothing but Python: it shows a worker being replaced, and leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from harness import interpreter, processes

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]


def test_the_demo(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(interpreter.ROOT), str(clone)], check=True)
    readme = (clone / "README.rst").read_text()
    assert "    python3 conf/demo/run.py\n" in readme
    assert "    python3 tests/run.py\n" in readme
    mark = uuid.uuid4().hex
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment[processes.MARKER] = mark
    base = Path(sys.base_prefix) / "bin" / "python3"
    try:
        done = subprocess.run(
            [str(base), "conf/demo/run.py", "--once"],
            cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        print(done.stdout + done.stderr)
        assert done.returncode == 0
        pid = re.search(r"demo: web-\d \(pid (\d+)\): my event loop hangs", done.stdout)
        assert pid
        assert f"demo: pid {pid[1]} is gone" in done.stdout
        assert "demo: four workers are healthy again" in done.stdout
        assert re.search(rf"restart: .*{pid[1]}", done.stdout + done.stderr)
        assert processes.marked(mark) == []
        assert subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True).stdout == b""
    finally:
        processes.kill_marked(mark)
