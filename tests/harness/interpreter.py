"""Which interpreter, and with it which supervisor and uvicorn, the tests start.

``SUPERVISOR_UVICORN_TEST_PYTHON`` names another interpreter whose environment runs supervisord, uvicorn and the
listener: supervisor 4.2.5, uvicorn 0.30, bare uvicorn without uvloop and httptools. The tests themselves stay where
they are.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"

_QUESTION = """
import importlib.util, json
from importlib.metadata import version
has = lambda name: importlib.util.find_spec(name) is not None
print(json.dumps({"supervisor": version("supervisor"), "uvicorn": version("uvicorn"), "uvloop": has("uvloop"),
                  "httptools": has("httptools"), "package": has("supervisor_uvicorn")}))
"""


def python() -> str:
    return os.environ.get("SUPERVISOR_UVICORN_TEST_PYTHON") or sys.executable


@functools.cache
def about() -> dict[str, object]:
    """What that interpreter has: versions, and whether uvloop, httptools and our package are installed."""
    done = subprocess.run([python(), "-c", _QUESTION], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def environment(scratch: Path) -> dict[str, str]:
    """The environment for supervisord: PATH finds this interpreter's commands first.

    Where the package is not installed (a developer's own environment) the checkout stands in for it: on PYTHONPATH, and
    as a ``supervisor-uvicorn`` command in ``scratch``.
    """
    bins = [str(Path(python()).parent)]
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("SUPERVISOR_", "UVICORN_"))}
    variables["PYTHONUNBUFFERED"] = "1"
    if not about()["package"]:
        variables["PYTHONPATH"] = str(ROOT)
        command = scratch / "bin" / "supervisor-uvicorn"
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec {python()} -m supervisor_uvicorn "$@"\n')
        command.chmod(0o755)
        bins.insert(0, str(command.parent))
    variables["PATH"] = os.pathsep.join([*bins, variables.get("PATH", os.defpath)])
    return variables
