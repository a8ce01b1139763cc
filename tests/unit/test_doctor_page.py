"""The catalogue is whole: documented, tested, and readable by people and by programs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from doctor_site import CLEAN_PROGRAM, configured

from supervisor_uvicorn import cli
from supervisor_uvicorn.doctor.catalogue import CATALOGUE, examine
from supervisor_uvicorn.doctor.findings import SEVERITIES
from supervisor_uvicorn.doctor.run import text

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_doctor", DOCS / "generate_doctor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "doctor.rst").read_text(encoding="utf-8") == module.page(), "run: python docs/generate_doctor.py"


def test_each_trap_has_a_name_of_its_own_and_all_of_its_words() -> None:
    names = [trap.name for trap in CATALOGUE]
    assert len(set(names)) == len(names)
    for trap in CATALOGUE:
        assert re.fullmatch(r"[a-z0-9-]{4,40}", trap.name)
        assert trap.severity in SEVERITIES
        for words in (trap.wrong, trap.why):
            assert words.endswith((".", "yet.")), words
        assert trap.write.strip()
        assert trap.cause.strip()


def test_each_trap_is_planted_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_doctor_*.py"))
    lacking = [trap.name for trap in CATALOGUE if f'"{trap.name}"' not in tests and f'"{trap.name}:' not in tests]
    assert lacking in ([], ["refused"])  # names() gives that one with its message; tested by its words


def test_the_text_names_place_words_reason_and_lines() -> None:
    findings = examine(configured(CLEAN_PROGRAM.replace("autorestart=true", "autorestart=false"), server=""))
    lines = text(findings, "a file").splitlines()
    assert lines[0] == "Looked at a file."
    assert any(re.fullmatch(r"  warning  autorestart-false: autorestart=false \(line \d+\)", line) for line in lines)
    assert "          autorestart=true" in lines
    assert lines[-1] == "2 found: 1 error, 1 warning."
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == ["error", "warning"]
    assert max(map(len, lines)) <= 120
    assert text([], "a file") == "Looked at a file.\n\nNothing found.\n"


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "supervisord.conf"
    file.write_text("[supervisord]\n[program:web]\ncommand=uvicorn --timeout-graceful-shutdown 5 app:app\n")
    assert cli.main(["doctor", "--json", "-c", str(file)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["findings"]
    by_name = {one["name"]: one for one in found["findings"]}
    assert {"no-rpc-server", "no-rpcinterface", "no-listener", "faulthandler-off"} <= set(by_name)
    assert by_name["no-rpc-server"]["line"] is None
    fault = by_name["faulthandler-off"]
    assert set(fault) == {"name", "severity", "file", "section", "line", "found", "wrong", "why", "write"}
    assert (fault["section"], fault["file"], fault["line"]) == ("program:web", str(file), 2)


def test_bytes_that_are_no_text_and_lines_that_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "supervisord.conf"
    file.write_bytes(b"[supervisord]\n[program:web]\ncommand=uvicorn app:app\nautorestart=no\xff\n \x1b[31mred\n")
    assert cli.main(["doctor", "-c", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "autorestart-false: autorestart=no" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-c", "/nowhere/supervisord.conf"], "/nowhere/supervisord.conf: cannot be read"),
        (["-s", "unix:///nowhere/supervisor.sock"], "there is no such socket"),
        (["-s", "ftp://host"], "is not a server URL"),
    ],
)
def test_what_cannot_be_looked_at(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.conf"
    file.write_bytes(b"\x00\xff not a section\n")
    assert cli.main(["doctor", "-c", str(file)]) == 2
    assert "is not a configuration file" in capsys.readouterr().err


def test_nothing_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUPERVISOR_SERVER_URL", raising=False)
    monkeypatch.setattr("supervisor_uvicorn.doctor.run.search_paths", lambda: [str(tmp_path / "supervisord.conf")])
    assert cli.main(["doctor"]) == 2
    assert "there is nothing to look at" in capsys.readouterr().err
