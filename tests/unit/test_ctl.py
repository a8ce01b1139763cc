"""The action ``uvicorn`` in supervisorctl's own controller: whatever is typed, the shell and the other actions live."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller, ControllerPluginBase

from supervisor_uvicorn.plugin import ctl
from supervisor_uvicorn.supervisord.rpc import Rpc

SECTION = "[ctlplugin:uvicorn]\nsupervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin\n"


class Shell:
    """supervisorctl with a configuration, as its ``main`` makes it (supervisor 4.3.0, supervisorctl.py)."""

    def __init__(self, home: Path, sections: str = SECTION) -> None:
        conf = home / "supervisord.conf"
        conf.write_text(f"[supervisorctl]\nserverurl=unix://{home}/none.sock\n{sections}")
        options = ClientOptions()
        options.realize(["-c", str(conf)], doc="")
        self.out = io.StringIO()
        self.ctl: Any = Controller(options, stdout=self.out)

    def type(self, line: str) -> Any:
        self.out.seek(0)
        self.out.truncate()
        self.ctl.exitstatus = 0
        return self.ctl.onecmd(line)

    def completed(self, line: str) -> list[str]:
        text = "" if line.endswith(" ") else line.split()[-1]
        found = []
        while (one := self.ctl.complete(text, len(found), line)) is not None:
            found.append(one)
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("uvicorn", 2, "the following arguments are required: VERB; see `help uvicorn`"),
        ("uvicorn wob", 2, "invalid choice: 'wob'"),
        ("uvicorn restart", 2, "the following arguments are required: NAME"),
        ("uvicorn pause --for soon", 2, "write 90, 90s, 5m or 1h"),
        ("uvicorn status 'web", 2, "No closing quotation"),
        ("uvicorn status", 2, "none.sock: there is no such socket"),
        ("uvicorn check", 2, "none.sock: there is no such socket"),
        ("uvicorn check --timeout x", 2, "timeout"),
    ],
)
def test_what_goes_wrong_is_an_exit_code_and_a_line(
    shell: Shell, capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    assert shell.type(line) is None, "anything else would end an interactive shell"
    assert shell.ctl.exitstatus == code
    assert shell.out.getvalue() == ""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "supervisor-uvicorn status" not in captured.err
    assert "Traceback" not in captured.err


def test_a_server_url_of_another_kind(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.ctl.options.serverurl = "ftp://host"
    shell.type("uvicorn history")
    assert shell.ctl.exitstatus == 2
    assert capsys.readouterr().err.startswith("supervisorctl uvicorn history: 'ftp://host' is not a server URL")


def test_help(shell: Shell) -> None:
    shell.type("help uvicorn")
    text = shell.out.getvalue()
    assert all(f"uvicorn {verb}" in text for verb in ctl.VERBS)
    assert "***" not in text, "the default plugin does not say that it has no help"
    shell.type("help")
    assert "uvicorn commands (type help <topic>):" in shell.out.getvalue()
    shell.type("help wob")
    assert shell.out.getvalue() == "*** No help on wob\n", "said once"
    shell.type("help start")
    assert "***" not in shell.out.getvalue()
    assert shell.type("uvicorn restart --help") is None
    assert shell.ctl.exitstatus == 0
    assert shell.out.getvalue().startswith("usage: supervisorctl uvicorn restart [-h] [--timeout S] NAME [NAME ...]")


def test_completion(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(self: Rpc, method: str, *_: Any, **__: Any) -> Any:
        asked.append(method)
        return [{"group": "web", "name": "web-0"}, {"group": "web", "name": "web-1"}, {"group": "api", "name": "api"}]

    monkeypatch.setattr(Rpc, "call", call)
    assert shell.completed("uvi") == ["uvicorn "]
    assert shell.completed("uvicorn ") == [f"{verb} " for verb in ctl.VERBS]
    assert shell.completed("uvicorn re") == ["restart ", "resume ", "reload "]
    assert asked == [], "verbs are known without a question"
    assert shell.completed("uvicorn restart ") == ["web:web-0 ", "web:* ", "web:web-1 ", "api "]
    assert shell.completed("uvicorn status web:web-1 web:w") == ["web:web-0 ", "web:web-1 "]
    assert asked == ["supervisor.getAllProcessInfo"], "once, until the next command"
    assert shell.completed("uvicorn wob web") == []
    assert shell.completed("help uvi") == ["uvicorn "]
    assert shell.completed("status web:web-0") == ["web:web-0 "], "supervisorctl's own completion is as it was"


def test_completion_without_a_supervisord_completes_nothing(shell: Shell) -> None:
    assert shell.completed("uvicorn restart ") == []


def test_an_unknown_setting_is_said_where_ours_is_used_and_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, SECTION + "timeout = 5\nsupervisor.ctlfactory = x\n")
    assert capsys.readouterr().err == "", "`supervisorctl status` is read by scripts"
    shell.type("uvicorn status")
    said = capsys.readouterr().err
    assert "[ctlplugin:uvicorn]: there is no setting timeout, so it does nothing" in said
    assert "there is no setting supervisor.ctlfactory" in said
    assert shell.ctl.exitstatus == 2


def test_the_action_is_uvicorn_whatever_the_section_is_called(tmp_path: Path) -> None:
    shell = Shell(tmp_path, SECTION.replace(":uvicorn]", ":mine]"))
    shell.type("help uvicorn")
    assert "uvicorn restart" in shell.out.getvalue()


def test_beside_another_plugin(tmp_path: Path) -> None:
    class Other(ControllerPluginBase):  # type: ignore[misc]
        def do_other(self, arg: str) -> None:
            self.ctl.output("other")

    shell = Shell(tmp_path)
    shell.ctl.options.plugins.append(Other(shell.ctl))
    shell.type("other")
    assert shell.out.getvalue() == "other\n"


def test_an_installation_that_is_not_whole_breaks_only_our_action(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "supervisor_uvicorn.verbs.command", None)
    shell.type("uvicorn status")
    assert shell.ctl.exitstatus == 2
    assert "this installation of supervisor-uvicorn is not whole" in capsys.readouterr().err
    shell.type("help")
    assert shell.ctl.exitstatus == 0


@pytest.mark.parametrize("line", ["uvicorn status", "uvicorn check"])
def test_ctrl_c_does_not_end_the_shell(shell: Shell, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Rpc, "call", interrupted)
    assert shell.type(line) is None
    assert shell.ctl.exitstatus == 130


def test_the_import_is_light() -> None:
    program = (
        "import sys, json\nfrom supervisor import supervisorctl\nbefore = set(sys.modules)\n"
        "import supervisor_uvicorn.plugin.ctl\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    ours = [name for name in json.loads(done.stdout) if name.startswith("supervisor_uvicorn")]
    assert ours == ["supervisor_uvicorn", "supervisor_uvicorn.plugin", "supervisor_uvicorn.plugin.ctl"]
