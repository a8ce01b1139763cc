"""A real listener whose directory of intentions cannot be trusted: it says so once, and acts all the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.supervisord import Event, Program, Supervisord, watched
from harness.waiting import wait_for

SICK = "web:web-0"


def said(site: Supervisord) -> list[Event]:
    return [event for event in site.events("error") if event.get("reason") == "intentions"]


def test_it_is_said_at_the_start_once_and_a_worker_is_replaced_all_the_same() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Path(scratch) / f"supervisor-uvicorn-{os.geteuid()}"
        theirs.mkdir()
        theirs.chmod(0o777)
        extra = f'environment=TMPDIR="{scratch}"'
        with watched(Program(numprocs=2), "--silent-after 2 --backoff 0", listener_extra=extra) as site:
            wait_for(lambda: said(site), 30, "the trouble said before anything is done")
            assert site.events("restart") == []
            site.fault(SICK, "/hang/sleep")
            wait_for(lambda: site.events("replaced"), 60, "the replacement")
            (trouble,) = said(site)
            assert "only uid" in trouble["message"]
            assert list(theirs.iterdir()) == []
