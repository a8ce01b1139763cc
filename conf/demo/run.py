#!/usr/bin/env python3
"""The demo in one command: ``python3 conf/demo/run.py``. Needs Python 3.10 or newer on Linux, and a package index.

Makes a virtual environment in ``.venv-demo`` of the checkout, installs this package and uvicorn there, and runs
``supervisord -n`` with four workers and the listener in the foreground. Then it hangs one worker, so that there is
something to see, and says what to type for more. Ctrl-C ends everything; with ``--once`` it ends by itself when the
worker is replaced.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONF = HERE / "supervisord.conf"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--once", action="store_true", help="end when the hung worker is replaced (exit code 0)")
    parser.add_argument("--port", type=int, default=8000, help="TCP port on 127.0.0.1; the next free one is taken")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-demo", help="where the virtual environment is made")
    options = parser.parse_args()
    if sys.version_info < (3, 10) or sys.platform != "linux":
        parser.error("the demo needs Python 3.10 or newer on Linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bin_directory = prepare(options.venv)
    directory = Path(tempfile.mkdtemp(prefix="uvicorn-demo-"))
    try:
        return run(bin_directory, directory, free_port(options.port), once=options.once)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def prepare(venv: Path) -> Path:
    """The ``bin`` of a virtual environment with this checkout and uvicorn in it."""
    python = venv / "bin" / "python"
    say(f"installing into {venv}")
    made = python.exists() or subprocess.run([sys.executable, "-m", "venv", venv]).returncode == 0
    if not made:
        shutil.rmtree(venv, ignore_errors=True)
        sys.exit("python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT, "uvicorn[standard]"],
        check=True,
    )
    return python.parent


def free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    sys.exit(f"no free port from {first} to {first + 99}; try --port")


def run(bin_directory: Path, directory: Path, port: int, *, once: bool) -> int:
    environment = {
        **os.environ,
        "PATH": f"{bin_directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "DEMO_PORT": str(port),
        "DEMO_DIR": str(directory),
    }
    supervisord = subprocess.Popen([bin_directory / "supervisord", "-n", "-c", CONF], env=environment)
    try:
        show(supervisord, bin_directory, environment, f"http://127.0.0.1:{port}")
        if not once:
            say_more(f"http://127.0.0.1:{port}", bin_directory, directory)
            supervisord.wait()
    except KeyboardInterrupt:
        say("ending")
    finally:
        if supervisord.poll() is None:
            supervisord.terminate()
        supervisord.wait()
    return 0


def show(supervisord: subprocess.Popen[bytes], bin_directory: Path, environment: dict[str, str], url: str) -> None:
    """Wait until all is well, hang one worker, wait until it is replaced."""

    def all_healthy() -> bool:
        check = [bin_directory / "supervisor-uvicorn", "check", "-c", CONF]
        return subprocess.run(check, env=environment, capture_output=True).returncode == 0

    def wait_for(done: bool) -> None:
        end = time.monotonic() + 120
        while not done:
            if supervisord.poll() is not None:
                sys.exit(f"supervisord ended with {supervisord.returncode}")
            if time.monotonic() > end:
                sys.exit("the workers did not get healthy within 120 s")
            done = all_healthy()

    wait_for(done=False)
    say("four workers are healthy; now one of them is hung:", f"curl {url}/hang")
    began = time.monotonic()
    with urllib.request.urlopen(f"{url}/hang", timeout=10) as answer:
        text = answer.read().decode().strip()
    say(text)
    pid = int(text.partition("pid ")[2].partition(")")[0])
    while Path(f"/proc/{pid}").exists() and supervisord.poll() is None and time.monotonic() < began + 60:
        time.sleep(0.05)
    if Path(f"/proc/{pid}").exists():
        sys.exit(f"pid {pid} is still there after 60 s")
    say(f"pid {pid} is gone, {time.monotonic() - began:.1f} s after the hang")
    wait_for(done=False)
    say("four workers are healthy again")


def say_more(url: str, bin_directory: Path, directory: Path) -> None:
    command = bin_directory / "supervisor-uvicorn"
    server = f"-s unix://{directory}/supervisor.sock"
    say(
        "your turn, in another terminal; which worker it hits is chance, its answer says which one:",
        f"curl {url}/         who answers?",
        f"curl {url}/hang     hang it: replaced after some 2 s, with the line of Python that blocked",
        f"curl {url}/spin     endless computation: replaced after twice as long (busy_factor)",
        f"curl {url}/fail     answers 500 from now on: drained and replaced after three wrong answers, some 15 s",
        f"curl {url}/slow     answers after 5 s: the same",
        f"curl {url}/recover  heal all that are not replaced yet",
        f"{command} status {server}",
        f"{command} history {server}",
        f"{command} restart {server} web    replace all four, one by one, without losing a request",
        "Ctrl-C ends everything.",
    )


def say(*lines: str) -> None:
    for line in lines:
        print(f"demo: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
