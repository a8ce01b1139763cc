"""The quick way to supervisord's server says what supervisor's own parser says, or leaves it to that one."""

from __future__ import annotations

import argparse
import configparser
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor_uvicorn.find_supervisord import NotFound, _client_options
from supervisor_uvicorn.supervisord.quick_conf import search_path, server_in

SECTION = "[supervisorctl]\n"


def supervisors_own(path: Path) -> tuple[str, str, str] | None:
    """What supervisorctl would use; None: it refuses the file."""
    try:
        found = _client_options(argparse.Namespace(configuration=str(path)))
    except (NotFound, ValueError, configparser.Error):
        return None
    return str(found.serverurl), found.username or "", found.password or ""


UNDERSTOOD = [
    "serverurl=unix:///run/supervisor.sock",
    "serverurl = unix://%(here)s/supervisor.sock",
    "serverurl=unix://supervisor.sock",
    "serverurl=unix://~/supervisor.sock",
    "serverurl=unix:///run/../run/s.sock ; a comment",
    "serverurl=http://127.0.0.1:9001 # a comment",
    "serverurl: http://127.0.0.1:9001",
    "SERVERURL=http://127.0.0.1:9001",
    "serverurl=unix://%(ENV_SOMEWHERE)s/s.sock",
    "",
    "serverurl=http://a:1\nserverurl=http://b:2",
    "serverurl=http://a:1\n[supervisord]\n[supervisorctl]\nusername=later",
    "username=user\npassword=a%%b;c",
    "username=user ; comment\npassword= spaces ",
    "serverurl=http://a:1\nprompt=x\n  continued",
    "serverurl=http://a:1\n[include]\nfiles=/nonexistent/*.conf",
]
LEFT_TO_SUPERVISOR = ["serverurl=%(nothing)s", "serverurl=100%", "password=%(here", "no value", "=x"]


@pytest.mark.parametrize("text", [*UNDERSTOOD, *LEFT_TO_SUPERVISOR])
def test_it_is_the_same(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/some/where")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "supervisord.conf"
    path.write_text(SECTION + text + "\n")
    found = server_in(str(path), os.environ)
    if text in UNDERSTOOD:
        assert found is not None
        assert found == supervisors_own(path)
    else:
        assert found is None
        assert supervisors_own(path) is None


@pytest.mark.parametrize("text", ["", "[supervisord]\n", "x=1\n[supervisorctl]\n", "[supervisorctl\n"])
def test_a_file_without_the_section_is_left_to_supervisor(text: str, tmp_path: Path) -> None:
    path = tmp_path / "supervisord.conf"
    path.write_text(text)
    assert server_in(str(path), {}) is None
    assert server_in(str(tmp_path / "none"), {}) is None
    assert server_in(str(tmp_path), {}) is None


_LINES = st.lists(
    st.tuples(
        st.sampled_from(
            ["serverurl", "username", "password", " serverurl", "prompt", "[supervisorctl]", "[other]", ";"]
        ),
        st.sampled_from(["=", " = ", ":", " ", ""]),
        st.text(st.sampled_from("ab/:%;# ()~shere\t[]="), max_size=12),
    ),
    max_size=6,
)


@given(lines=_LINES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_there_it_is_never_another_answer(lines: list[tuple[str, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "supervisord.conf"
    path.write_text(SECTION + "\n".join("".join(line) for line in lines) + "\n")
    found = server_in(str(path), os.environ)
    if found is not None and not any("%" in text for _, _, text in lines):
        assert found == supervisors_own(path)


def test_the_search_path_is_supervisorctls() -> None:
    from supervisor.options import ClientOptions

    assert search_path(sys.argv[0]) == ClientOptions().searchpaths
