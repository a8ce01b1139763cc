"""A worker that begins to spin right after it has answered a health probe is found like any other.

It cannot be pinned anew, and its ticks do not tell a spin from a saturated loop: the connection that has just brought
the answer has to speak for it.
"""

from __future__ import annotations

import time

import pytest
from harness.judging import wait_healthy
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import wait_for

NAME = "web:web-1"


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("after_s", [0.0, 0.02])
def test_it_is_found(http: str, after_s: float) -> None:
    program = Program(uvicorn=f"--http {http}")
    with watched(program, listen="--silent-after 1 --path /health --backoff 0 --budget 1000/600") as site:
        wait_healthy(site)
        pid = site.pids()[NAME]
        link = site.connect_to(NAME)
        try:
            wait_probed(site, link)
            time.sleep(after_s)  # not to wait for something: this is when it begins
            link.send_only("/hang/spin")
            restart = site.wait_event("restart", 60)
        finally:
            link.close()
        assert (restart["worker"], restart["pid"], restart["reason"]) == (NAME, pid, "silent")


def wait_probed(site: Supervisord, link: object) -> None:
    """Until it has just answered a probe, by its access log; ours is used meanwhile, or uvicorn would end it."""
    log = site.scratch / "web-1.out"
    before = log.read_text().count("/health")
    asked_at = time.monotonic()

    def probed() -> bool:
        nonlocal asked_at
        if time.monotonic() - asked_at > 1:
            link.ask("/pid")  # type: ignore[attr-defined]
            asked_at = time.monotonic()
        return log.read_text().count("/health") > before

    wait_for(probed, 60, "a probe", every_s=0.002)
