"""Listeners with less rights than they would like: root without CAP_SYS_PTRACE, and a third user."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import users
from harness.judging import replaced_only, wait_healthy, wait_replaced_only
from harness.supervisord import Program, Supervisord
from harness.waiting import wait_for

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not users.is_root(), reason="takes root"),
    pytest.mark.skipif(users.is_root() and users.way_prefix() is None, reason="no other user can run the interpreter"),
]

SICK = "web:web-1"


@pytest.mark.parametrize("socket", ["tcp", "unix"])
def test_root_without_ptrace(socket: str, figures: Callable[..., None]) -> None:
    with Supervisord(
        Program(socket=socket, extra="user=nobody"),
        listen="--silent-after 2",
        listener_command=users.without_ptrace("{listen}"),
        command_prefix=users.way_prefix() or [],
    ) as site:
        before = site.wait_pinned()
        site.fault(SICK, "/hang/sleep")
        took_s = wait_replaced_only(site, before, SICK)
        figures(socket=socket, replaced_s=round(took_s, 1), line=site.events("restart")[0]["message"])


@pytest.mark.parametrize("socket", ["tcp", "unix"])
def test_a_third_user(socket: str, figures: Callable[..., None]) -> None:
    """It cannot read the workers' descriptors: it says so, with the mend, and has the ticks left."""
    with Supervisord(
        Program(socket=socket, extra="user=nobody\nsocket_mode=0777" if socket == "unix" else "user=nobody"),
        listen="--silent-after 2",
        listener_extra="user=daemon",
        server_extra="chmod=0777",
        command_prefix=users.way_prefix() or [],
    ) as site:
        before = site.wait_running()
        lack = wait_for(
            lambda: [event for event in site.events("error") if "user=" in event["message"]], 30, "the lack"
        )
        wait_healthy(site)
        site.fault(SICK, "/hang/sleep")
        wait_for(lambda: replaced_only(site, before, SICK), 60, "the blocked worker replaced")
        figures(socket=socket, lack=lack[0]["message"], line=site.events("restart")[0]["message"])
        assert site.events("pinned") == []
