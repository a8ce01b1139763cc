"""Each restart of a hung worker is explained by the listener: in the log, and in the history.

Run it in two environments, with py-spy (``pip install py-spy``) and without: each skips what is the other's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import interpreter
from harness.rolls import verb
from harness.supervisord import PLUGIN, Program, Supervisord, watched

from supervisor_uvicorn.explain import stack

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

SICK = "web:web-0"
FAULTY = interpreter.APPS / "faulty.py"
CODE = {
    "sleep": '"sleep": lambda: time.sleep(FOR_EVER_S),',
    "lock": "lock.acquire()",
    "read": "ours.recv(1)",
    "gil": "ctypes.PyDLL(None).sleep(int(FOR_EVER_S))",
    "spin": "while True:",
}
LONGEST_S = 2.0


def lines_of(code: str) -> set[str]:
    return {f"faulty.py:{number})" for number, line in enumerate(FAULTY.read_text().splitlines(), 1) if code in line}


def names_the_line(explanation: dict[str, Any], kind: str) -> bool:
    """A spin is seen in either of its two lines."""
    wanted = lines_of(CODE[kind])
    if kind == "spin":
        wanted |= {f"faulty.py:{int(line.removesuffix(')').rpartition(':')[2]) + 1})" for line in set(wanted)}
    return any(line in frame for frame in explanation["stack"] for line in wanted)


def explained(site: Supervisord, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the restart's event, the last word on where it was stuck)."""
    before = site.pids()[SICK]
    site.fault(SICK, f"/hang/{kind}")
    site.wait_event("replaced", 90, worker=SICK, old_pid=before)
    (restart,) = site.events("restart", worker=SICK, pid=before)
    later = site.events("explained", worker=SICK, pid=before)
    return restart, (later[0] if later else restart)["explanation"]


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("way", ["py-spy", "faulthandler", "kernel"])
def test_where_it_hung_is_told(way: str, kind: str, figures: Callable[..., None]) -> None:
    if (way == "py-spy") != (stack.program() is not None):
        pytest.skip("py-spy is installed here" if stack.program() else "py-spy is not installed here")
    program = Program(numprocs=2, environment={"PYTHONFAULTHANDLER": "1"} if way == "faulthandler" else {})
    with watched(program, "--silent-after 2", sections=PLUGIN) as site:
        restart, explanation = explained(site, kind)
        assert restart["explanation"]["took_s"] <= LONGEST_S
        if way == "kernel":
            assert explanation["source"] == "kernel"
            assert explanation["state"] in ("R", "S")
            assert explanation["why_not"]
        else:
            assert explanation["source"] == way
            assert names_the_line(explanation, kind), explanation
        history = json.loads(verb(site, "history", "--json", SICK).stdout)["entries"]
        assert any(entry.get("explanation") == explanation for entry in history)
        figures(way=way, kind=kind, took_s=restart["explanation"]["took_s"])
