"""Settings: each one once, from four places in order of weight, and errors that say what to write instead."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from supervisor_uvicorn.settings import (
    CHECK_KEYS,
    ENTRIES,
    Backoff,
    Budget,
    ListenSettings,
    Settings,
    SettingsError,
    add_flags,
    load,
)

DOCS = Path(__file__).parents[2] / "docs"


def listen(*argv: str) -> ListenSettings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load(parser.parse_args(argv))


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # so that messages name the file as the user does
    return tmp_path / "supervisord.conf"


def from_file(conf: Path, text: str, *argv: str) -> ListenSettings:
    conf.write_text(text)
    return listen("--settings", conf.name, *argv)


def error_of(conf: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        from_file(conf, text)
    return str(caught.value)


def flag_error(*argv: str) -> str:
    with pytest.raises(SettingsError) as caught:
        listen(*argv)
    return str(caught.value)


# -- each setting once


def test_every_field_has_an_entry_and_every_entry_a_field() -> None:
    programs = {entry.field for entry in ENTRIES if entry.scope == "program"}
    listeners = {entry.field for entry in ENTRIES if entry.scope == "listener"}
    assert programs == {one.name for one in dataclasses.fields(Settings)}
    assert listeners == {one.name for one in dataclasses.fields(ListenSettings)} - {"general", "by_group"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_the_default_as_written_means_the_default(entry: object) -> None:
    if entry.default == "none":  # type: ignore[attr-defined]
        return
    owner = Settings() if entry.scope == "program" else ListenSettings()  # type: ignore[attr-defined]
    assert entry.kind.parse(entry.default) == getattr(owner, entry.field)  # type: ignore[attr-defined]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_the_example_in_the_messages_is_taken(entry: object, conf: Path) -> None:
    from_file(conf, f"[supervisor-uvicorn]\n{entry.key}={entry.example}\n")  # type: ignore[attr-defined]


def test_the_design_s_defaults() -> None:
    assert listen() == ListenSettings(by_group={})
    assert (Settings().silent_after_s, Settings().backoff, Settings().budget) == (30.0, Backoff(10, 300, 600), Budget())


def test_every_setting_is_documented_and_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_settings", DOCS / "generate_settings.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "settings.rst").read_text()
    assert page == module.page(), "run: python docs/generate_settings.py"
    for entry in ENTRIES:
        part = page.split(f"\n{entry.key}\n---", 1)[1]
        for text in (entry.help, f"``{entry.default}``", entry.kind.unit, entry.precedent, entry.flag):
            assert text
            assert text in part


def test_help_names_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        listen("--help")
    text = " ".join(capsys.readouterr().out.split())
    for entry in ENTRIES:
        assert entry.flag in text
        assert f"default: {entry.default}" in text


def test_check_takes_only_how_a_worker_is_asked() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, only=CHECK_KEYS)
    args = parser.parse_args(["--path", "/h", "--expect", "204", "--header", "A: 1", "--header", "B: 2"])
    general = load(args).general
    assert (general.path, general.expect, general.headers) == ("/h", ((204, 204),), (("A", "1"), ("B", "2")))
    with pytest.raises(SystemExit):
        parser.parse_args(["--silent-after", "3"])


# -- where a value comes from


def test_group_before_general_before_flag_before_default(conf: Path) -> None:
    settings = from_file(
        conf,
        "[supervisor-uvicorn]\nsilent_after=20\ntimeout=4\n[supervisor-uvicorn:web]\nsilent_after=10\n",
        *("--silent-after", "5", "--timeout", "6", "--failing-after", "7"),
    )
    web, other = settings.of("web"), settings.of("other")
    assert (web.silent_after_s, web.timeout_s, web.failing_after, web.busy_factor) == (10, 4, 7, 2)
    assert (other.silent_after_s, other.timeout_s, other.failing_after) == (20, 4, 7)
    assert other is settings.general


def test_a_group_can_switch_off_what_the_general_section_switches_on(conf: Path) -> None:
    settings = from_file(
        conf, "[supervisor-uvicorn]\npath=/h\ndry_run=true\n[supervisor-uvicorn:web]\npath=\ndry_run=off\n"
    )
    assert (settings.general.path, settings.of("web").path) == ("/h", None)
    assert (settings.general.dry_run, settings.of("web").dry_run) == (True, False)


def test_the_file_is_read_as_supervisor_reads_its_own(conf: Path) -> None:
    text = """\
; a whole supervisord.conf
[supervisord]
logfile=%(here)s/x.log ; odd % signs elsewhere are not ours
[program:web]
command=sh -c "echo 50%%"
[supervisor-uvicorn]
silent_after=20 ; a comment
path=/a;b?c=1#d2 # and one more
"""
    assert "write %23" in error_of(conf, text)
    text = text.replace("#d2", "%%20")
    settings = from_file(conf, text + "[supervisor-uvicorn]\nsilent_after : 25\nPANIC_THRESHOLD=25%%\n")
    assert settings.general.silent_after_s == 25  # a doubled section: the later value
    assert settings.general.path == "/a;b?c=1%20"
    assert settings.general.panic_threshold == 0.25


def test_supervisor_s_own_parser_sees_the_same_values(conf: Path) -> None:
    options = pytest.importorskip("supervisor.options")
    section = "[supervisor-uvicorn]\n"
    conf.write_text(section + "a=1 ; x\nb=2;x\nc=3 # x\nd=4\n  5\n" + section + "a=6\n[x]\ny=%(z)s\n")
    theirs = options.UnhosedConfigParser()
    theirs.read(str(conf))
    from supervisor_uvicorn.settings_file import new_parser

    ours = new_parser()
    ours.read(str(conf))
    assert {name: dict(theirs.items(name)) for name in theirs.sections()} == {
        name: dict(ours.items(name)) for name in ours.sections()
    }


def test_included_files_are_read_and_named(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (conf.parent / "conf.d").mkdir()
    (conf.parent / "conf.d" / "web.conf").write_text("[supervisor-uvicorn:web]\nsilent_after=9\n")
    monkeypatch.setenv("WHERE", "conf.d")
    main = "[include]\nfiles = %(here)s/%(ENV_WHERE)s/*.conf\n"
    assert from_file(conf, main).of("web").silent_after_s == 9
    (conf.parent / "conf.d" / "web.conf").write_text("[supervisor-uvicorn:web]\nsilent_after=x\n")
    assert "conf.d/web.conf, [supervisor-uvicorn:web], silent_after: " in error_of(conf, main)
    assert "cannot be expanded" in error_of(conf, "[include]\nfiles=%(nowhere)s/x\n")


def test_headers_one_a_line(conf: Path) -> None:
    settings = from_file(conf, "[supervisor-uvicorn]\nheader=\n  X-A: 1 ; first\n  X-B: b: c\n")
    assert settings.general.headers == (("X-A", "1"), ("X-B", "b: c"))


def test_groups_from_flags_and_from_the_file(conf: Path) -> None:
    assert listen("--group", "web", "--group", "api,jobs").groups == ("web", "api", "jobs")
    assert from_file(conf, "[supervisor-uvicorn]\ngroup=web, api\n").groups == ("web", "api")


def test_what_other_sections_say_is_nobody_s_business(conf: Path) -> None:
    assert from_file(conf, "[DEFAULT]\nfoo=1\n[supervisor-uvicorn]\n[x]\nsilent_after=30s\n") == ListenSettings()


# -- values


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (("--silent-after", "1"), "silent_after_s", 1.0),
        (("--silent-after", ".5e1"), None, None),
        (("--timeout", ".5"), "timeout_s", 0.5),
        (("--panic-threshold", "0.4"), "panic_threshold", 0.4),
        (("--panic-threshold", "100%"), "panic_threshold", 1.0),
        (("--expect", "200, 204,301-302"), "expect", ((200, 200), (204, 204), (301, 302))),
        (("--backoff", "0"), "backoff", Backoff(0, 0)),
        (("--backoff", "5:60"), "backoff", Backoff(5, 60)),
        (("--budget", "5/600"), "budget", Budget(5, 600)),
        (("--budget", "1000/600"), "budget", Budget(1000, 600)),
        (("--budget", "max(3,workers)/60"), "budget", Budget(None, 60)),
        (("--drain-timeout", "stopwaitsecs"), "drain_timeout_s", None),
        (("--drain-timeout", "5"), "drain_timeout_s", 5.0),
        (("--abort-wait", "0"), "abort_wait_s", 0.0),
        (("--host", "[::1]:8000"), "host", "[::1]:8000"),
        (("--dry-run",), "dry_run", True),
    ],
)
def test_values(argv: tuple[str, ...], field: str | None, value: object) -> None:
    if field is None:
        flag_error(*argv)
    else:
        assert getattr(listen(*argv).general, field) == value


def test_the_pulse_follows_a_short_silent_after_unless_it_is_set() -> None:
    assert listen("--silent-after", "1").pulse_s == 0.5
    assert listen("--silent-after", "2", "--pulse", "1").pulse_s == 1.0
    assert flag_error("--silent-after", "1", "--pulse", "1").startswith(
        '--pulse: "1" is more than half of the smallest silent_after (1); write for example --pulse 0.5'
    )


def test_the_pulse_is_held_against_the_shortest_group(conf: Path) -> None:
    text = "[supervisor-uvicorn]\npulse=4\n[supervisor-uvicorn:web]\nsilent_after=6\n"
    assert error_of(conf, text).startswith("supervisord.conf, [supervisor-uvicorn], pulse: ")


# -- wrong values


def test_the_message_of_the_design(conf: Path) -> None:
    assert error_of(conf, "[supervisor-uvicorn:web]\nsilent_after=30s\n") == (
        'supervisord.conf, [supervisor-uvicorn:web], silent_after: "30s" is not a number of seconds; '
        "write for example silent_after=30"
    )
    assert flag_error("--silent-after", "30s") == (
        '--silent-after: "30s" is not a number of seconds; write for example --silent-after 30'
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--silent-after", "0.5"), "too short: at least 1 seconds"),
        (("--silent-after", "nan"), "not a number of seconds"),
        (("--silent-after", "inf"), "not a number of seconds"),
        (("--silent-after", "-5"), "not a number of seconds"),
        (("--silent-after", "1_0"), "not a number of seconds"),
        (("--silent-after", "٣٠"), "not a number of seconds"),
        (("--silent-after", "1e9"), "not a number of seconds"),
        (("--silent-after", "99999999"), "too long"),
        (("--silent-after", ""), "not a number of seconds"),
        (("--pulse", "0.01"), "too short"),
        (("--busy-factor", "0.5"), "not between 1 and"),
        (("--failing-after", "0"), "whole number, 1 or more"),
        (("--failing-after", "2.5"), "whole number"),
        (("--panic-threshold", "50"), "a percentage needs its %"),
        (("--panic-threshold", "half"), "neither a percentage"),
        (("--panic-threshold", "120%"), "more than all"),
        (("--path", "healthz"), "does not begin with /"),
        (("--path", "/a b"), "percent-encoded"),
        (("--path", "/ä"), "percent-encoded"),
        (("--path", "/a\r\nX: y"), "percent-encoded"),
        (("--path", "/" + "a" * 3000), "at most 2048"),
        (("--expect", "2xx"), "status codes"),
        (("--expect", "399-200"), "ends before it begins"),
        (("--expect", ""), "status codes"),
        (("--host", "a\nb"), "not a host name"),
        (("--header", "X"), "not Name: value"),
        (("--header", "X: a\r\nY: b"), "line break"),
        (("--header", "X: a\x00"), "cannot carry"),
        (("--header", "Host: a"), "setting of its own"),
        (("--header", "content-length: 5"), "probe's own"),
        (("--backoff", "10"), "FIRST:LONGEST"),
        (("--backoff", "300:10"), "not below"),
        (("--backoff", "0:10"), "above 0"),
        (("--budget", "5"), "RESTARTS/SECONDS"),
        (("--budget", "0/600"), "1 or more"),
        (("--budget", "5/0"), "too short"),
        (("--drain-timeout", "never"), "nor stopwaitsecs"),
        (("--log-format", "xml"), "none of text, json"),
        (("--group", "web:*"), "the group of web:web-0"),
        (("--group", ","), "names no group"),
    ],
)
def test_a_wrong_flag_is_named_with_what_it_takes(argv: tuple[str, ...], says: str) -> None:
    message = flag_error(*argv)
    assert message.startswith(argv[0] + ": ")
    assert says in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[supervisor-uvicorn]\nsilent_afer=3\n", "[supervisor-uvicorn], silent_afer: there is no such setting; did"),
        ("[supervisor-uvicorn]\nsilent-after=3\n", "did you mean silent_after?"),
        ("[supervisor-uvicorn]\nqqq=3\n", "there are: pulse, group"),
        ("[supervisor-uvicorn:web]\npulse=1\n", "one for the whole listener; write it in [supervisor-uvicorn]"),
        ("[supervisor_uvicorn:web]\n", "write [supervisor-uvicorn:web]"),
        ("[supervisor-uvicorn:]\n", "names no group"),
        ("[supervisor-uvicorn]\nsilent_after\n", "not a configuration file"),
        ("silent_after=3\n", "not a configuration file"),
        ("[supervisor-uvicorn]\ndry_run=maybe\n", "neither true nor false"),
        ("[supervisor-uvicorn]\nheader=\n  A: 1\n  B\n", '"***" is not Name: value'),
    ],
)
def test_a_wrong_file_is_named_with_what_to_write(conf: Path, text: str, says: str) -> None:
    message = error_of(conf, text)
    assert "supervisord.conf" in message
    assert says in message


def test_a_wrong_flag_is_said_even_where_the_file_has_the_last_word(conf: Path) -> None:
    with pytest.raises(SettingsError, match="--timeout"):
        from_file(conf, "[supervisor-uvicorn]\ntimeout=3\n", "--timeout", "x")


def test_a_missing_file_and_a_directory(conf: Path) -> None:
    assert "nowhere.conf: cannot be read: No such file" in flag_error("--settings", "nowhere.conf")
    assert "cannot be read" in flag_error("--settings", str(conf.parent))


def test_bytes_that_are_no_utf8_in_other_sections_do_not_matter(conf: Path) -> None:
    conf.write_bytes(b"; caf\xe9\n[program:x]\ncommand=\xe9\n[supervisor-uvicorn]\nsilent_after=7\n")
    assert listen("--settings", conf.name).general.silent_after_s == 7


@hypothesis_settings(max_examples=500, deadline=None)
@given(st.sampled_from(ENTRIES), st.text(max_size=30))
def test_any_text_is_a_value_or_a_message(entry: object, text: str) -> None:
    args = argparse.Namespace(**{entry.key: [text] if entry.kind.repeatable else text})  # type: ignore[attr-defined]
    message = ""
    try:
        load(args)
    except SettingsError as error:
        message = str(error)
    assert message.isprintable()
