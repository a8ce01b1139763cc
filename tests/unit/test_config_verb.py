"""What ``config`` prints is right for what is there, and a real supervisord takes it."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor_uvicorn import config_page
from supervisor_uvicorn.settings import ENTRIES, ListenSettings, add_flags, load
from supervisor_uvicorn.settings_file import SettingsError, new_parser
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.calls import Supervisord
from supervisor_uvicorn.supervisord.rpc import Rpc, RpcError

DEADLINE_S = 30.0
RPCINTERFACE = (
    "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
)
PLUGINS = """\
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
[ctlplugin:uvicorn]
supervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin
"""
FOUNDATION = ("rpcinterface:supervisor", "supervisorctl", "eventlistener:uvicorn-health", "supervisor-uvicorn")
WEB = "[fcgi-program:web]\nsocket=unix://%(here)s/web.sock\ncommand=sleep 1000\n"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The supervisord that a shell here would start is that of this interpreter.
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]))
    with tempfile.TemporaryDirectory(prefix="sv") as name:  # short: a unix socket's path has 107 bytes
        monkeypatch.chdir(name)
        yield Path(name)


def sections(text: str) -> dict[str, dict[str, str]]:
    parser = new_parser()
    parser.read_string(text)
    return {name: dict(parser.items(name)) for name in parser.sections()}


@contextlib.contextmanager
def supervisord(home: Path, conf: str) -> Iterator[None]:
    (home / "final.conf").write_text(conf)
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(home / "final.conf")]
    command += ["-l", str(home / "log"), "-j", str(home / "pid"), "-q", str(home)]
    with open(home / "out", "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=home)
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                with Rpc(f"unix://{home}/s", "me", "pw") as rpc:
                    Supervisord(rpc).state()
                break
            except RpcError:
                assert process.poll() is None, (home / "out").read_text()
                assert time.monotonic() < end, (home / "out").read_text()
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("names", [[], ["web"]])
@pytest.mark.parametrize(
    "conf",
    [
        None,
        "[supervisord]\n" + WEB,
        "[supervisord]\nnodaemon=true\n" + WEB + "[unix_http_server]\nfile=%(here)s/s\n",
        "[supervisord]\n" + WEB + "[unix_http_server]\nfile=%(here)s/s\nusername=me\npassword=pw\n" + RPCINTERFACE,
    ],
)
def test_a_real_supervisord_takes_it(
    home: Path, conf: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if conf is None:
        monkeypatch.setattr(config_page, "search_paths", list)
    else:
        (home / "given.conf").write_text(conf)
    text = config_page.config_text(names, str(home / "given.conf") if conf else None)
    # Not into /run: the tests share the machine.
    final = (
        (conf or "")
        + "\n"
        + text.replace("/run/supervisor.sock", f"{home}/s").replace("%(here)s/supervisor.sock", f"{home}/s")
    )
    with supervisord(home, final), Rpc(f"unix://{home}/s", "me", "pw") as rpc:
        config = Supervisord(rpc).configs()["uvicorn-health:uvicorn-health"]
        words = shlex.split(config.command)
        assert os.path.isabs(words[0])
        assert os.access(words[0], os.X_OK)
        assert "listen" in words
        assert ("--group" in words) == bool(names)
        assert config.stdout_logfile == ""
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", "final.conf", "-u", "me", "-p", "pw", "pid"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.stdout.strip().isdigit(), done
        assert Board(rpc).read() is not None, "the board is there; the listener may have reported by now"
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", "final.conf", "help", "uvicorn"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert "uvicorn restart" in done.stdout


def test_only_what_lacks_is_printed(home: Path) -> None:
    whole = "[supervisord]\n[unix_http_server]\nfile=/x/s\n[supervisorctl]\n" + RPCINTERFACE + PLUGINS
    (home / "c").write_text(whole)
    text = config_page.config_text([], "c")
    assert set(sections(text)) == {"eventlistener:uvicorn-health", "supervisor-uvicorn"}
    assert "supervisord itself must be restarted" not in text
    (home / "c").write_text(whole.replace("[rpcinterface:uvicorn]", "[rpcinterface:x]\n[rpcinterface:uvicorn]"))
    assert "rpcinterface:uvicorn" not in sections(config_page.config_text([], "c"))
    (home / "c").write_text(whole.replace(PLUGINS, ""))
    text = config_page.config_text([], "c")
    assert {"rpcinterface:uvicorn", "ctlplugin:uvicorn"} < set(sections(text))
    assert "supervisord itself must be restarted" in text
    (home / "c").write_text("[supervisord]\n[inet_http_server]\nport=*:9099\n")
    printed = sections(config_page.config_text([], "c"))
    assert set(printed) == {
        "rpcinterface:supervisor",
        "supervisorctl",
        "eventlistener:uvicorn-health",
        "rpcinterface:uvicorn",
        "ctlplugin:uvicorn",
        "supervisor-uvicorn",
    }
    assert printed["supervisorctl"]["serverurl"] == "http://127.0.0.1:9099"


def test_for_a_supervisord_with_another_python_the_plugins_are_comments(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a section that it cannot import, supervisord does not start at all."""
    (home / "c").write_text("[supervisord]\n")
    bin_ = home / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))
    for script in ("supervisord", "supervisorctl"):
        (bin_ / script).write_text("#!/usr/bin/python9 -E\n")
        (bin_ / script).chmod(0o755)
    text = config_page.config_text([], "c")
    assert set(sections(text)) == {"unix_http_server", *FOUNDATION}
    assert ";[rpcinterface:uvicorn]\n;supervisor.rpcinterface_factory = " in text
    assert ";[ctlplugin:uvicorn]\n;supervisor.ctl_factory = " in text
    (bin_ / "supervisord").write_text(f"#!{sys.executable}\n")
    assert set(sections(config_page.config_text([], "c"))) == {"unix_http_server", "rpcinterface:uvicorn", *FOUNDATION}
    # an interpreter of the same files in another environment does not see our package
    (bin_ / "python").symlink_to(os.path.realpath(sys.executable))
    (bin_ / "supervisord").write_text(f"#!{bin_}/python\n")
    assert not config_page.has_our_python("supervisord")
    (bin_ / "supervisord").write_bytes(b"\x7fELF\0")
    assert not config_page.has_our_python("supervisord")


def test_the_listener_section_is_the_design_s(home: Path) -> None:
    (home / "c").write_text("[supervisord]\n")
    printed = sections(config_page.config_text([], "c"))["eventlistener:uvicorn-health"]
    command = shlex.split(printed.pop("command"))
    assert command[-3:] == ["listen", "--settings", str(home / "c")]
    assert printed == {
        "events": "TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION",
        "buffer_size": "100",
        "autorestart": "true",
        "priority": "-10",
        "stdout_logfile": "NONE",
    }


def test_dev_stderr_only_where_there_is_one(home: Path) -> None:
    for value, there in (("true", True), ("1", True), ("false", False)):
        (home / "c").write_text(f"[supervisord]\nnodaemon={value}\n")
        text = config_page.config_text([], "c")
        assert ("stderr_logfile" in sections(text)["eventlistener:uvicorn-health"]) is there
        assert ("a daemon's /dev/stderr is lost" in text) is not there


def test_a_user_name_on_the_server_asks_for_credentials(home: Path) -> None:
    (home / "c").write_text("[supervisord]\n[unix_http_server]\nfile=/x/s\nusername=me\npassword=hidden\n")
    text = config_page.config_text([], "c")
    environment = sections(text)["eventlistener:uvicorn-health"]["environment"]
    assert environment == 'SUPERVISOR_USERNAME="USERNAME",SUPERVISOR_PASSWORD="PASSWORD"'
    assert "hidden" not in text


def test_names(home: Path) -> None:
    (home / "c").write_text("[supervisord]\n" + WEB)
    text = config_page.config_text(["web:web-0", "web:*", "api"], "c")
    printed = sections(text)
    assert printed["eventlistener:uvicorn-health"]["command"].endswith(" --group web --group api")
    assert {"supervisor-uvicorn:web", "supervisor-uvicorn:api"} <= set(printed)
    assert "; There is no program or group api in " in text
    assert "no program or group web" not in text
    assert "--group" not in config_page.config_text(["all"], "c")
    with pytest.raises(SettingsError, match="as supervisorctl knows"):
        config_page.config_text(["a b"], "c")


@pytest.mark.parametrize("section", ["supervisor-uvicorn", "supervisor-uvicorn:web"])
def test_the_defaults_in_the_comments_are_taken_and_are_the_defaults(home: Path, section: str) -> None:
    text = config_page.config_text(["web"] if ":" in section else [], None)
    part = text.split(f"[{section}]\n", 1)[1].split("\n[")[0]
    shown = {line[1:].partition("=")[0]: line[1:] for line in part.splitlines() if line.startswith(";") and "=" in line}
    expected = {entry.key for entry in ENTRIES if entry.scope == "program" or ":" not in section}
    assert set(shown) == expected
    set_by_default = {entry.key for entry in ENTRIES if entry.is_set}  # of the others an example is shown
    kept = [line for key, line in shown.items() if key in set_by_default]
    (home / "c").write_text(f"[{section}]\n" + "\n".join(kept) + "\n")
    parser = argparse.ArgumentParser()
    add_flags(parser)
    settings = load(parser.parse_args(["--settings", "c"]))
    assert settings.of("web") == ListenSettings().general
    (home / "c").write_text(f"[{section}]\n" + "\n".join(shown.values()) + "\n")
    load(parser.parse_args(["--settings", "c"]))


def test_it_looks_where_supervisorctl_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = pytest.importorskip("supervisor.options")
    monkeypatch.setattr(sys, "argv", [os.path.join(os.path.dirname(sys.executable), "supervisorctl")])
    assert config_page.search_paths() == options.ClientOptions().searchpaths
    (home / "supervisord.conf").write_text("[supervisord]\n[include]\nfiles=d/*.conf\n")
    (home / "d").mkdir()
    (home / "d" / "x.conf").write_text("[eventlistener:old]\ncommand=/opt/bin/supervisor-uvicorn listen\n" + WEB)
    monkeypatch.setattr(config_page, "search_paths", lambda: ["nowhere", "supervisord.conf"])
    text = config_page.config_text(["web"])
    assert f"; Add this to {home}/supervisord.conf" in text
    assert "[eventlistener:old] is there already" in text
    assert "no program or group" not in text


def test_run_prints_and_a_file_that_is_not_there_is_exit_2(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    config_page.add_arguments(parser)
    (home / "c").write_text("[supervisord]\n")
    assert config_page.run(parser.parse_args(["-c", "c", "web"])) == 0
    assert "[eventlistener:uvicorn-health]\ncommand=/" in capsys.readouterr().out
    assert config_page.run(parser.parse_args(["-c", "nowhere.conf"])) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "supervisor-uvicorn config: nowhere.conf: cannot be read: No such file or directory\n"


def test_a_path_with_a_percent_sign_survives_supervisord(home: Path) -> None:
    (home / "a%b c").write_text("[supervisord]\n")
    command = sections(config_page.config_text([], "a%b c"))["eventlistener:uvicorn-health"]["command"]
    assert shlex.split(command % {})[-1] == str(home / "a%b c")
