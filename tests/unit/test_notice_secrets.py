"""What may be shown of a command and of a URL; and what is refused before the listener is ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.notices import check, masked
from supervisor_uvicorn.settings import ListenSettings, SettingsError
from supervisor_uvicorn.webhook import place


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:token@hooks.example.org/services/T0/B0?key=1#x", "https://hooks.example.org"),
        ("http://token@127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:9/secret", "http://[::1]:9"),
        ("http://[::1]/secret", "http://[::1]"),
        ("HTTPS://Hooks.Example.org?token", "https://hooks.example.org"),
    ],
)
def test_of_a_url_only_the_place_is_shown(url: str, shown: str) -> None:
    assert place(url) == shown


@pytest.mark.parametrize(
    ("said", "arguments", "shown"),
    [
        ("bad token hunter22", ["--token", "hunter22"], "bad token ***"),
        ("bad token hunter22", ["--token=hunter22"], "bad token ***"),
        ("login as u:hunter22 failed", ["-phunter22"], "login as u:*** failed"),
        ("no route to hooks.example.org", ["https://hooks.example.org/T0/B0XY"], "no route to ***.***.org"),
        ("HUNTER22?", ["hunter22"], "***?"),
        ("exit 1", ["1", "-v"], "exit 1"),
        ("cannot post", [], "cannot post"),
    ],
)
def test_what_a_command_says_shows_none_of_its_arguments(said: str, arguments: list[str], shown: str) -> None:
    assert masked(said, arguments) == shown


@given(st.text(), st.text(), st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=4))
def test_no_argument_stands_in_what_it_says(before: str, after: str, secret: str) -> None:
    assert secret not in masked(before + secret + after, [secret]).replace("***", "\0")


def test_a_program_that_is_missing_is_refused_with_the_name_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^notify \(--notify\): nobody-has-this: .* on PATH; write the absolute"):
        check(ListenSettings(notify=("nobody-has-this", "hunter22")))
    with pytest.raises(SettingsError, match="No such file") as found:
        check(ListenSettings(notify=(str(tmp_path / "gone"), "hunter22")))
    assert "hunter22" not in str(found.value)
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\n")
    with pytest.raises(SettingsError, match="may execute"):
        check(ListenSettings(notify=(str(file),)))
    file.chmod(0o755)
    check(ListenSettings(notify=(str(file),)))
    check(ListenSettings(notify=("sh", "-c", "true")))
    check(ListenSettings())


@pytest.mark.parametrize(("setting", "loaded"), [('notify=("sh",)', False), ('notify_url="http://127.0.0.1/"', True)])
def test_requests_is_imported_only_for_a_url(setting: str, loaded: bool) -> None:
    code = (
        "import sys; from supervisor_uvicorn.notices import *\n"
        f"check(ListenSettings({setting})); Notices(ListenSettings({setting}), print)\n"
        "print('requests' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == str(loaded), out.stderr
