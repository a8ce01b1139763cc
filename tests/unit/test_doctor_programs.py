"""doctor on programs: each trap planted by itself is found, with its words and its line, and not in its neighbour."""

from __future__ import annotations

from pathlib import Path

import pytest
from doctor_site import CLEAN_LISTENER, CLEAN_PROGRAM, configured, findings, names, place

from supervisor_uvicorn.doctor import machine
from supervisor_uvicorn.doctor.site import Site

FCGI = CLEAN_PROGRAM
UNIX = FCGI.replace("tcp://127.0.0.1:8000", "unix:///run/web.sock\nsocket_mode=0777")


def replaced(old: str, new: str, text: str = FCGI) -> str:
    assert old in text
    return text.replace(old, new)


def command(text: str, options: str) -> str:
    return replaced("--fd 0", f"--fd 0 {options}", text)


def test_the_clean_program_has_none() -> None:
    assert names(configured(FCGI)) == []
    assert names(configured(UNIX)) == []


@pytest.mark.parametrize(
    ("name", "trap", "neighbour"),
    [
        ("autorestart-false", replaced("autorestart=true", "autorestart=false"), FCGI),
        ("startsecs-zero", FCGI + "startsecs=0\n", FCGI + "startsecs=1\n"),
        ("no-graceful-limit", replaced("--timeout-graceful-shutdown 5", ""), FCGI),
        ("graceful-limit-too-late", FCGI + "stopwaitsecs=5\n", FCGI + "stopwaitsecs=6\n"),
        ("stopsignal", FCGI + "stopsignal=KILL\n", FCGI + "stopsignal=INT\n"),
        ("stopsignal", FCGI + "stopsignal=QUIT\n", FCGI + "stopsignal=SIGTERM\n"),
        ("socket-backlog-ignored", FCGI + "socket_backlog=77\n", command(FCGI, "--backlog 77") + "socket_backlog=77\n"),
        ("limit-concurrency-small", command(FCGI, "--limit-concurrency 19"), command(FCGI, "--limit-concurrency 20")),
        ("minfds-low", command(FCGI, "--limit-concurrency 1000"), command(FCGI, "--limit-concurrency=900")),
        ("faulthandler-off", replaced('PYTHONFAULTHANDLER="1"', 'A="1"'), FCGI),
        ("socket-shut-to-proxy", replaced("\nsocket_mode=0777", "", UNIX), UNIX),
        ("socket-shut-to-proxy", replaced("0777", "0700", UNIX), replaced("0777", "0770", UNIX)),
        ("reload", command(FCGI, "--reload"), FCGI),
        ("workers", command(FCGI, "--workers 2"), command(FCGI, "--workers 1")),
        ("web-concurrency", replaced('="1"', '="1",WEB_CONCURRENCY="4"'), replaced('="1"', '="1",WEB_CONCURRENCY="1"')),
    ],
)
def test_a_trap_and_its_neighbour(name: str, trap: str, neighbour: str) -> None:
    assert names(configured(trap)) == [name]
    assert names(configured(neighbour)) == []


def test_max_requests_is_a_trap_only_where_exit_code_0_is_expected() -> None:
    limited = command(replaced("autorestart=true\n", ""), "--limit-max-requests 1000")
    (found,) = findings(configured(limited))
    assert found.trap.name == "max-requests-stays-down"
    assert found.found == "--limit-max-requests 1000, autorestart=unexpected"
    assert place(limited, found) == "command"
    assert names(configured(limited + "exitcodes=3\n")) == []
    assert names(configured(limited + "autorestart=true\n")) == []
    by_variable = replaced('="1"', '="1",UVICORN_LIMIT_MAX_REQUESTS="50"').replace("autorestart=true\n", "")
    (found,) = findings(configured(by_variable))
    assert (found.trap.name, found.found[:31]) == ("max-requests-stays-down", "UVICORN_LIMIT_MAX_REQUESTS=50, ")


def test_the_written_command_keeps_the_rest() -> None:
    (found,) = findings(configured(replaced("--timeout-graceful-shutdown 5 ", "")))
    assert found.write == "command=/venv/bin/uvicorn --timeout-graceful-shutdown 8 --fd 0 app:app"
    short = replaced("--timeout-graceful-shutdown 5 ", "") + "stopwaitsecs=2\n"
    assert "--timeout-graceful-shutdown 1" in findings(configured(short))[0].write


def test_a_command_that_cannot_be_rewritten_is_shown_as_a_pattern() -> None:
    for line in ("uvicorn\n --fd 0 app:app", "env X=uvicorn uvicorn --fd 0 app:app"):
        text = FCGI.replace("/venv/bin/uvicorn --fd 0 --timeout-graceful-shutdown 5 app:app", line)
        (found,) = findings(configured(text))
        assert found.write == "command=uvicorn --timeout-graceful-shutdown 8 ..."
    barely = replaced("--timeout-graceful-shutdown 5 ", "")
    assert "\n" not in findings(configured(barely + "stopwaitsecs=3\n"))[0].write


def test_no_value_of_a_variable_is_shown() -> None:
    secret = replaced('PYTHONFAULTHANDLER="1"', 'DATABASE="pass:word"')
    (found,) = findings(configured(secret))
    assert found.found == "environment=DATABASE=..."
    assert found.write == 'environment=...,PYTHONFAULTHANDLER="1"'
    for broken in (f"{secret}".replace('word"', 'word",X="%(ENV_NOT_THERE)s"'), secret.replace('word"', 'word",X')):
        told = [str(one.as_json()) for one in findings(configured(broken))]
        assert any("refused" in one for one in told)
        assert not any("word" in one for one in told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("env SECRET=hush KEY='hush x' /venv/bin/uvicorn --fd 0 app:app", "env SECRET=*** KEY=*** /venv/bin/uvicorn"),
        ('env "KEY=x hush" /venv/bin/uvicorn --fd 0 app:app', 'env "KEY=***" /venv/bin/uvicorn'),
        ("sh -c 'KEY=hush exec /venv/bin/uvicorn --fd 0 app:app'", "sh -c 'KEY=*** exec /venv/bin/uvicorn"),
        ('sh -c "KEY=hush exec /venv/bin/uvicorn --fd 0 app:app"', 'sh -c "KEY=*** exec /venv/bin/uvicorn'),
        ('sh -c "KEY=\\"x hush\\" exec /venv/bin/uvicorn --fd 0 app:app"', 'sh -c "KEY=*** exec /venv/bin/uvicorn'),
        ("/venv/bin/uvicorn --ssl-keyfile-password -hush --fd 0 app:app", "--ssl-keyfile-password *** --fd 0 app:app"),
        ("/venv/bin/uvicorn --ssl-keyfile-password hush --fd 0 app:app", "--ssl-keyfile-password *** --fd 0 app:app"),
        ("/venv/bin/uvicorn --ssl-keyfile-password=hush --fd 0 app:app", "--ssl-keyfile-password=*** --fd 0 app:app"),
        ("/venv/bin/uvicorn --header 'X-Key: hush' --fd 0 app:app", "--header *** --fd 0 app:app"),
        ("/venv/bin/uvicorn --header=X-Key:\\ hush --fd 0 app:app", "--header=*** --fd 0 app:app"),
    ],
)
def test_no_secret_of_a_command_is_shown(line: str, told: str) -> None:
    """In what was found, in what to write, and in supervisord's own message."""
    text = FCGI.replace("/venv/bin/uvicorn --fd 0 --timeout-graceful-shutdown 5 app:app", line)
    (found,) = findings(configured(text, supervisord='environment=UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN="60"'))
    assert found.trap.name == "graceful-limit-too-late"
    (found,) = findings(configured(text))
    assert (found.trap.name, "hush" in str(found.as_json())) == ("no-graceful-limit", False)
    assert told in found.write.replace(" --timeout-graceful-shutdown 8", "")
    assert found.write.startswith("; *** stands for what is there now\ncommand=")
    first, *_ = findings(configured(text.replace("app:app", "app:app --x %(no)s")))
    assert first.trap.name == "refused"
    assert "hush" not in first.found


def test_no_secret_of_a_listener_is_shown() -> None:
    section = "[supervisor-uvicorn]\npulse=2\n"
    for wrong in ("--header 'X-Key: hush'", "--header=Key:hush --path /x"):
        listener = CLEAN_LISTENER.replace(" listen", f" listen {wrong}")
        (found,) = findings(configured(FCGI, section, listener=listener))
        assert found.trap.name == "settings-not-read"
        assert "hush" not in str(found.as_json())
        assert "***" in found.write


@pytest.mark.parametrize(
    "wrong",
    ["--headr='X-Key: hush'", "--header X-Key: hush", "--header hush", "--header=hush", "--header 'Host: hush'"],
)
def test_no_secret_of_a_listeners_wrong_use_is_shown(wrong: str) -> None:
    configuration = configured(FCGI, listener=CLEAN_LISTENER.replace(" listen", f" listen {wrong}")).configuration
    assert configuration is not None
    here = machine.read(configuration, {}, "/", (), None)
    assert len(here.wrong_settings) == 1
    assert "***" in here.wrong_settings[0][1]
    told = [str(one.as_json()) for one in findings(Site(configuration, machine=here))]
    assert any("settings-wrong" in one for one in told)
    assert not any("hush" in one for one in told)


def test_no_secret_of_a_settings_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("[supervisor-uvicorn]\npath=/x\nheader=Authorization Bearer hush\n")
    listener = CLEAN_LISTENER.replace(" listen", f" listen --settings {tmp_path}/settings")
    configuration = configured(FCGI, listener=listener).configuration
    assert configuration is not None
    ((_, message),) = machine.read(configuration, {}, "/", (), None).wrong_settings
    assert "header: *** is not Name: value" in message
    assert "hush" not in message


def test_a_limit_in_supervisords_environment_counts() -> None:
    text = replaced("--timeout-graceful-shutdown 5", "")
    assert names(configured(text, supervisord='environment=UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN="5"')) == []
    assert names(configured(text, environ={"UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": "5"})) == []


def test_tcp_without_the_plugin() -> None:
    (found,) = findings(configured(FCGI, plugin=False))
    assert found.trap.name == "tcp-44ms"
    assert place(FCGI, found, plugin=False) == "socket"
    serve = replaced("/venv/bin/uvicorn", "/venv/bin/supervisor-uvicorn serve")
    assert names(configured(serve, plugin=False)) == []
    assert names(configured(UNIX, plugin=False)) == []


def test_one_worker_without_the_plugin() -> None:
    one = replaced("numprocs=2", "numprocs=1")
    serve = replaced("/venv/bin/uvicorn", "/venv/bin/supervisor-uvicorn serve", one)
    assert names(configured(serve, plugin=False)) == ["one-worker-tcp"]
    assert names(configured(serve)) == []
    assert names(configured(replaced("numprocs=2", "numprocs=1", UNIX), plugin=False)) == []


def test_an_fcgi_program_in_a_group() -> None:
    text = FCGI + "\n[program:other]\ncommand=/bin/cat\n\n[group:all]\nprograms=other,web\n"
    (found,) = findings(configured(text))
    assert (found.trap.name, found.section, found.write) == ("fcgi-in-group", "group:all", "programs=other")
    assert found.found == "programs=other,web"
    assert names(configured(text.replace("programs=other,web", "programs=other"))) == []


@pytest.mark.parametrize(
    ("front", "wrapper"),
    [
        ("sh -c 'cd /srv && /venv/bin/uvicorn OPTIONS'", "sh -c"),
        ("/bin/sh -ec '/venv/bin/uvicorn OPTIONS'", "sh -c"),
        ("bash -c '/venv/bin/uvicorn OPTIONS; echo ended'", "bash -c"),
        ("uv run --no-sync uvicorn OPTIONS", "uv run"),
        ("uv run -- python -m uvicorn OPTIONS", "uv run"),
        ("sudo -u www-data /venv/bin/uvicorn OPTIONS", "sudo"),
        ("sh -c 'cd /srv && exec /venv/bin/uvicorn OPTIONS'", ""),
        ("bash -c 'cd /srv && /venv/bin/uvicorn OPTIONS'", ""),
        ("env A=1 B=2 /venv/bin/uvicorn OPTIONS", ""),
        ("poetry run uvicorn OPTIONS", ""),  # os.execvpe
        ("nice -n 5 /venv/bin/python -m uvicorn OPTIONS", ""),
    ],
)
def test_wrappers(front: str, wrapper: str) -> None:
    line = front.replace("OPTIONS", "--fd 0 --timeout-graceful-shutdown 5 app:app")
    text = FCGI.replace("/venv/bin/uvicorn --fd 0 --timeout-graceful-shutdown 5 app:app", line)
    assert line in text
    found = findings(configured(text))
    assert [one.trap.name for one in found] == (["wrapper"] if wrapper else [])
    assert all(f"`{wrapper}`" in one.wrong for one in found)


def test_a_tree_whose_children_would_outlive_it() -> None:
    tree = command(FCGI, "--workers 2").replace("killasgroup=true\n", "")
    assert sorted(names(configured(tree))) == ["tree-without-killasgroup", "workers"]
    assert names(configured(tree + "stopasgroup=true\n")) == ["workers"]  # killasgroup's default is stopasgroup


@pytest.mark.parametrize("line", ["/bin/cat /etc/uvicorn.conf", "python manage.py runserver", "sh -c 'echo uvicorn'"])
def test_what_is_not_uvicorn_is_left_alone(line: str) -> None:
    text = f"[program:other]\ncommand={line}\nautorestart=false\nstartsecs=0\nstopsignal=KILL\n"
    assert names(configured(FCGI + "\n" + text)) == []
