"""Setups that are wrong: supervisord starts and its workers serve in each, and every verb says what to do.

What a verb says of a missing listener is tested word by word in tests/unit; here is the whole, on real processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import client
from harness.rolls import verb, wait_healthy
from harness.supervisord import PLUGIN, Program, Supervisord, free_port
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

VERBS = [["status"], ["restart", "web"], ["pause"], ["resume"], ["history"]]

CTL = """
[ctlplugin:uvicorn]
supervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin
"""


def site_of(sections: str = PLUGIN, listen: str | None = "", **options: Any) -> Supervisord:
    return Supervisord(Program(numprocs=2, uvicorn="--no-access-log"), listen=listen, sections=sections, **options)


def serves(site: Supervisord) -> bool:
    try:
        return client.ask(site.url(), "/pid")[0] == 200
    except OSError:
        return False


def all_verbs(site: Supervisord, exit_code: int, *words: str) -> dict[str, str]:
    """Each verb ends with this code and says all ``words`` on stderr; what each one said."""
    said = {}
    for typed in VERBS:
        done = verb(site, *typed)
        said[typed[0]] = done.stderr
        assert done.returncode == exit_code, done
        assert "Traceback" not in done.stderr + done.stdout
        if exit_code == 2:
            assert done.stderr.startswith(f"supervisor-uvicorn {typed[0]}: ")
        for word in words:
            assert word in done.stderr, done
    return said


# -- our own section ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param(
            "tcp_nodelay = perhaps",
            "tcp_nodelay=perhaps is not understood, so TCP_NODELAY is not set on any socket; write tcp_nodelay=true "
            "or tcp_nodelay=false",
            id="value",
        ),
        pytest.param(
            "keep_sockets = true",
            "there is no setting keep_sockets, so keep_sockets=true does nothing; there are tcp_nodelay, keep_socket",
            id="key",
        ),
    ],
)
def test_a_wrong_setting_of_the_plugin(line: str, told: str) -> None:
    with site_of(PLUGIN + line + "\n") as site:
        wait_for(lambda: serves(site), 60, "an answer")
        wait_healthy(site)
        log = (site.scratch / "supervisord.log").read_text()
        assert log.count(f"supervisor-uvicorn: {told}") == 1
        all_verbs(site, 0)


def test_a_section_for_several_servers() -> None:
    """supervisord makes one plugin for each of its HTTP servers: both have the same board."""
    port = free_port()
    inet = f"\n[inet_http_server]\nport=127.0.0.1:{port}\n"
    with site_of(PLUGIN + inet) as site:
        wait_for(lambda: serves(site), 60, "an answer")
        wait_healthy(site)
        all_verbs(site, 0)
        remote = site.cli("status", "--json", "-s", f"http://127.0.0.1:{port}")
        assert remote.returncode == 0, remote
        here = json.loads(verb(site, "status", "--json").stdout)
        there = json.loads(remote.stdout)
        assert [one["pid"] for one in there["programs"][0]["workers"]] == [
            one["pid"] for one in here["programs"][0]["workers"]
        ]
        done = site.cli("restart", "-s", f"http://127.0.0.1:{port}", "web")
        assert done.returncode == 0, done


def test_the_section_twice() -> None:
    """Of a doubled section supervisor's parser keeps the last of each key (configparser, ``strict=False``); of two
    names for it there are two namespaces with one board behind them."""
    other = PLUGIN.replace("[rpcinterface:uvicorn]", "[rpcinterface:again]")
    with site_of(PLUGIN + PLUGIN + other + "tcp_nodelay = false\n") as site:
        wait_for(lambda: serves(site), 60, "an answer")
        wait_healthy(site)
        all_verbs(site, 0)


def test_no_plugin() -> None:
    with site_of("") as site:
        wait_for(lambda: serves(site), 60, "an answer")
        site.wait_pinned()
        all_verbs(
            site,
            2,
            "supervisord has no health board",
            "[rpcinterface:uvicorn]\nsupervisor.rpcinterface_factory = "
            "supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface",
            "supervisor-uvicorn check",
        )
        assert site.check().returncode == 0
        assert site.events("error") == [], "a listener needs no plugin"


def test_the_plugin_under_another_name() -> None:
    """Its methods are then called otherwise: for us it is not there."""
    with site_of(PLUGIN.replace("[rpcinterface:uvicorn]", "[rpcinterface:health]")) as site:
        wait_for(lambda: serves(site), 60, "an answer")
        all_verbs(site, 2, "[rpcinterface:uvicorn]")


# -- supervisorctl -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["supervisor_uvicorn.plugin.ctl:not_there", "not_there.ctl:make"])
def test_a_ctlplugin_that_cannot_be_imported(factory: str, figures: Callable[..., None]) -> None:
    """supervisor 4.3.0 refuses all of supervisorctl's commands then, and says which line is to blame. supervisord
    starts, and our own command works and can tell."""
    with site_of(PLUGIN + CTL.replace("supervisor_uvicorn.plugin.ctl:make_controller_plugin", factory)) as site:
        wait_for(lambda: serves(site), 60, "an answer")
        wait_healthy(site)
        done = site.ctl("status")
        figures(supervisorctl=done.stderr.splitlines()[:1] or done.stdout.splitlines()[:1])
        assert done.returncode == 2
        assert f"{factory} cannot be resolved within [ctlplugin:uvicorn]" in done.stderr + done.stdout
        all_verbs(site, 0)


def test_a_ctlplugin_with_a_setting_that_is_not_there() -> None:
    with site_of(PLUGIN + CTL + "colour = red\n") as site:
        wait_for(lambda: serves(site), 60, "an answer")
        wait_healthy(site)
        done = site.ctl("uvicorn", "status")
        assert done.returncode == 0, done
        assert done.stderr == "[ctlplugin:uvicorn]: there is no setting colour, so it does nothing\n"
        assert site.ctl("status").returncode == 0


def test_a_ctlplugin_without_the_other_plugin() -> None:
    with site_of(CTL) as site:
        wait_for(lambda: serves(site), 60, "an answer")
        done = site.ctl("uvicorn", "status")
        assert done.returncode == 2, done
        assert "[rpcinterface:uvicorn]" in done.stderr
        assert "supervisorctl uvicorn check" in done.stderr


# -- a listener that never reports -------------------------------------------------------------------------------------


def test_no_listener() -> None:
    with site_of(listen=None) as site:
        wait_for(lambda: serves(site), 60, "an answer")
        said = all_verbs(site, 2, "no listener has reported since supervisord was started")
        for words in said.values():
            assert "no process of it runs `supervisor-uvicorn listen`" in words
            assert "[eventlistener:uvicorn-health]" in words
            assert "supervisorctl update" in words


def test_a_listener_that_is_stopped() -> None:
    with site_of(listener_extra="autostart=false") as site:
        wait_for(lambda: serves(site), 60, "an answer")
        all_verbs(site, 2, "no listener has reported", "uvicorn-health is STOPPED", str(site.log_path))
        assert site.ctl("start", "uvicorn-health").returncode == 0
        wait_healthy(site)
        all_verbs(site, 0)


def test_a_listener_with_a_wrong_setting_is_fatal() -> None:
    with site_of(listen="--silent-after soon") as site:
        wait_for(lambda: site.rpc.getProcessInfo("uvicorn-health")["statename"] == "FATAL", 60, "FATAL")
        wait_for(lambda: serves(site), 60, "an answer")
        all_verbs(site, 2, "no listener has reported", "uvicorn-health is FATAL", str(site.log_path))
        assert "silent_after" in site.log_path.read_text().replace("-", "_")


def test_a_listener_that_has_gone_for_good() -> None:
    """It has reported, so the table is shown, and that it is old; nothing is asked of nobody."""
    with site_of() as site:
        wait_healthy(site)
        assert site.ctl("stop", "uvicorn-health").returncode == 0
        wait_for(lambda: verb(site, "status").returncode == 2, 60, "an old page")
        status = verb(site, "status")
        assert "web:web-0" in status.stdout
        for typed in (["status"], ["restart", "web"], ["pause"], ["resume"]):
            done = verb(site, *typed)
            assert done.returncode == 2, done
            assert "the listener has not reported for " in done.stderr
            assert "uvicorn-health is STOPPED" in done.stderr
        assert verb(site, "history").returncode == 0


def test_no_remote_communication_among_its_events() -> None:
    with site_of(listen=None) as bare:
        text = bare.conf_path.read_text()
        entry = bare.listener_section("uvicorn-health", "", bare.log_path)
    assert "REMOTE_COMMUNICATION" in entry
    deaf = text + entry.replace(",REMOTE_COMMUNICATION", "")
    with Supervisord(conf=deaf.replace(str(bare.scratch), "{scratch}")) as site:
        wait_for(lambda: "web:web-0" in verb(site, "status").stdout, 60, "a page")
        done = verb(site, "restart", "web")
        assert done.returncode == 2, done
        assert "no listener answered within 10 s" in done.stderr
        assert "events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION" in done.stderr


# -- no supervisord ----------------------------------------------------------------------------------------------------


def test_no_supervisord() -> None:
    with site_of() as site:
        wait_for(site.all_running, 60, "all RUNNING")
        site.stop()
        all_verbs(site, 2, "supervisord is not running")
