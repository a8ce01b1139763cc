#!/usr/bin/env python3
"""The tests in one command: ``python3 tests/run.py [pytest's arguments]``. Needs Python 3.10 or newer on Linux.

Makes a virtual environment in ``.venv-tests`` of the checkout (or in ``SUPERVISOR_UVICORN_TEST_VENV``), installs this
package with its ``test`` extra there, unpacks Debian's prometheus beside it, and runs pytest. With ``-m acceptance`` it
also needs ``wrk`` and superlance, and installs them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("test_metrics", "test_notify", "test_reload", "test_spin", "test_status", "test_usage", "test_verbs")
"""Of tests/integration, what runs in the second of two runs, so that both take about as long."""

NO_TESTS = ("integration", "acceptance", "apps", "harness", "__pycache__")


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 10) or sys.platform != "linux":
        sys.exit("the tests need Python 3.10 or newer on Linux")
    acceptance = any("acceptance" in argument for argument in arguments)
    if acceptance:
        install_wrk()
    python = prepare("test,bench,explain" if acceptance else "test")
    unpack_prometheus()
    if arguments:
        return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode
    return run_in_two(python)


def run_in_two(python: Path) -> int:
    """Everything, in two runs beside each other: most tests wait for real processes. Both outputs, one after the other;
    the last line sums them up."""
    integration = sorted((ROOT / "tests" / "integration").glob("test_*.py"))
    beside = [path for path in integration if path.stem.startswith(BESIDE)]
    others = [path for path in integration if path not in beside]
    rest = [path for path in sorted((ROOT / "tests").iterdir()) if path.is_dir() and path.name not in NO_TESTS]
    second = [python, "-m", "pytest", *rest, *beside]
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(second, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            first_code = subprocess.run([python, "-m", "pytest", *others], cwd=ROOT).returncode
            second_code = run.wait()
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGINT)  # pytest ends what its tests have started
                run.wait()
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
    print(f"exit codes of the two runs: {first_code} and {second_code}", flush=True)
    return first_code or second_code


def prepare(extras: str) -> Path:
    """The interpreter of a virtual environment in which this checkout is installed, editable."""
    venv = environment()
    python = venv / "bin" / "python"
    made = python.exists() or subprocess.run([sys.executable, "-m", "venv", venv]).returncode == 0
    if not made:
        shutil.rmtree(venv, ignore_errors=True)
        sys.exit("python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-e", f"{ROOT}[{extras}]"], check=True)
    return python


def environment() -> Path:
    """The directory of the virtual environment."""
    return Path(os.environ.get("SUPERVISOR_UVICORN_TEST_VENV", ROOT / ".venv-tests"))


def unpack_prometheus() -> None:
    """Put Debian's prometheus and promtool on PATH; without them their tests are skipped.

    Unpacked, not installed: installing it starts a service, and takes root.
    """
    if shutil.which("promtool") and shutil.which("prometheus"):
        return
    unpacked = environment() / "debian"
    programs = unpacked / "usr" / "bin"
    if not (programs / "promtool").exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        unpacked.mkdir(exist_ok=True)
        download = ["apt-get", "download", "-qq", "prometheus"]
        if subprocess.run(download, cwd=unpacked, stdin=subprocess.DEVNULL).returncode != 0 and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL)
            subprocess.run(download, cwd=unpacked, stdin=subprocess.DEVNULL)
        for package in unpacked.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, unpacked])
            package.unlink()
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{programs}"


def install_wrk() -> None:
    """wrk is in Debian's packages, not in the package index; without it the tests under load are skipped."""
    if not shutil.which("wrk") and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-qq", "-y", "wrk"], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
