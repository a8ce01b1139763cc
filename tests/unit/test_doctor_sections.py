"""doctor on the foundation, the listener's section and our own settings: one trap planted, and its neighbour clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from doctor_site import CLEAN_LISTENER, CLEAN_PROGRAM, INTERFACE, configured, findings, names

from supervisor_uvicorn.doctor import conf, machine
from supervisor_uvicorn.doctor.catalogue import examine
from supervisor_uvicorn.doctor.site import Machine, Running, Site, User

ROOT, WEB, OTHER = User(0, (0,)), User(1000, (1000, 50)), User(1001, (1001,))
# Names that this machine has, so that supervisord does not refuse them; what they mean stands in the Machine.
USERS = {"": ROOT, "root": ROOT, "nobody": WEB, "daemon": OTHER}


def listener(old: str, new: str) -> str:
    assert old in CLEAN_LISTENER
    return CLEAN_LISTENER.replace(old, new)


# --- the foundation


def test_no_server_and_no_interface() -> None:
    assert names(configured(CLEAN_PROGRAM, server="")) == ["no-rpc-server"]
    assert names(configured(CLEAN_PROGRAM, interface="")) == ["no-rpcinterface"]
    inet = "[inet_http_server]\nport=127.0.0.1:9001\n"
    assert names(configured(CLEAN_PROGRAM, server=inet)) == []


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("[unix_http_server]\nfile=/tmp/s.sock\nchmod=0777\n", ["rpc-socket-open"]),
        ("[unix_http_server]\nfile=/tmp/s.sock\nchmod=0770\n", []),
        ("[inet_http_server]\nport=0.0.0.0:9001\n", ["rpc-port-open"]),
        ("[inet_http_server]\nport=*:9001\n", ["rpc-port-open"]),
        ("[inet_http_server]\nport=9001\n", ["rpc-port-open"]),
        ("[inet_http_server]\nport=localhost:9001\n", []),
        ("[inet_http_server]\nport=0.0.0.0:9001\nusername=a\npassword=b\n", ["listener-without-password"]),
    ],
)
def test_who_may_use_the_server(server: str, expected: list[str]) -> None:
    assert names(configured(CLEAN_PROGRAM, server=server)) == expected


def test_a_listener_with_the_password() -> None:
    server = "[unix_http_server]\nfile=/tmp/s.sock\nusername=a\npassword=b\n"
    told = CLEAN_LISTENER + 'environment=SUPERVISOR_USERNAME="a",SUPERVISOR_PASSWORD="b"\n'
    assert names(configured(CLEAN_PROGRAM, server=server)) == ["listener-without-password"]
    assert names(configured(CLEAN_PROGRAM, server=server, listener=told)) == []


@pytest.mark.parametrize(
    ("server", "reaches"),
    [
        ("", False),
        ("chmod=0770\n", False),
        ("chmod=0770\nchown=nobody\n", True),
        ("chmod=0720\nchown=root:mail\n", True),
    ],
)
def test_the_socket_and_the_listeners_user(server: str, reaches: bool) -> None:
    here = Machine(users=USERS, groups={"mail": 50})
    site = configured(
        CLEAN_PROGRAM + "user=nobody\n",
        server=f"[unix_http_server]\nfile=/tmp/s.sock\n{server}",
        listener=CLEAN_LISTENER + "user=nobody\n",
        machine=here,
    )
    assert names(site) == ([] if reaches else ["rpc-socket-closed-to-listener"])


def test_supervisords_own_words_for_a_file_that_it_refuses() -> None:
    (found,) = findings(configured(CLEAN_PROGRAM + "stopwaitsecs=soon\n"))
    assert found.trap.name == "refused"
    assert "soon" in found.found
    assert "fcgi-program:web" in found.found


def test_a_variable_that_is_not_set() -> None:
    text = CLEAN_PROGRAM + "directory=%(ENV_NOT_THERE)s\n"
    (found,) = findings(configured(text, environ={"PATH": "/bin", "SECRET": "1"}))
    assert "ENV_NOT_THERE" in found.found
    assert "SECRET" not in found.found  # supervisor lists every name that there is
    assert names(configured(text, environ={"NOT_THERE": "/srv"})) == []


def test_a_daemon_in_a_container() -> None:
    inside = Machine(container=True)
    assert names(configured(CLEAN_PROGRAM, supervisord="nodaemon=false", machine=inside)) == ["daemon-in-container"]
    assert names(configured(CLEAN_PROGRAM, supervisord="nodaemon=true", machine=inside)) == []
    assert names(configured(CLEAN_PROGRAM, supervisord="nodaemon=false")) == []
    runs = Running("unix:///s", 1, here=True, foreground=True, board_age_s=1.0)  # with -n, whatever the file says
    assert names(configured(CLEAN_PROGRAM, supervisord="nodaemon=false", machine=inside, running=runs)) == []


def test_plugins_that_cannot_be_imported() -> None:
    site = configured(CLEAN_PROGRAM, machine=Machine(not_importable={"rpcinterface:uvicorn": "There is no module."}))
    (found,) = findings(site)
    assert (found.trap.name, found.section) == ("plugin-not-importable", "rpcinterface:uvicorn")
    assert "There is no module." in found.wrong


# --- the listener


@pytest.mark.parametrize(
    ("name", "trap", "neighbour"),
    [
        ("listener-without-tick", listener("TICK_5,", ""), listener("TICK_5", "TICK_60")),
        (
            "listener-without-tick",
            listener("TICK_5", "TICK_3600"),
            listener("TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION", "EVENT"),
        ),
        ("listener-events", listener(",REMOTE_COMMUNICATION", ""), CLEAN_LISTENER),
        ("listener-events", listener("PROCESS_STATE", "PROCESS_STATE_EXITED"), CLEAN_LISTENER),
        ("listener-stdout-logfile", listener("=NONE", "=/dev/stdout"), listener("=NONE", "=/dev/null")),
        ("listener-stdout-in-file", listener("stdout_logfile=NONE\n", ""), CLEAN_LISTENER),
        ("listener-redirect-stderr", CLEAN_LISTENER + "redirect_stderr=true\n", CLEAN_LISTENER),
        ("listener-buffer", listener("buffer_size=100\n", ""), listener("100", "50")),
        ("listener-autorestart", listener("autorestart=true\n", ""), CLEAN_LISTENER),
        ("listener-stderr-lost", CLEAN_LISTENER + "stderr_logfile=NONE\n", CLEAN_LISTENER + "stderr_logfile=/tmp/l\n"),
    ],
)
def test_a_trap_and_its_neighbour(name: str, trap: str, neighbour: str) -> None:
    assert names(configured(CLEAN_PROGRAM, listener=trap)) == [name]
    assert names(configured(CLEAN_PROGRAM, listener=neighbour)) == []


def test_no_listener_and_two() -> None:
    assert names(configured(CLEAN_PROGRAM, listener="")) == ["no-listener"]
    assert names(configured(listener="")) == []  # without uvicorn there is nothing to watch
    second = CLEAN_LISTENER.replace("uvicorn-health", "again").replace("-10", "-11")
    (found,) = findings(configured(CLEAN_PROGRAM, second))
    assert (found.trap.name, found.section) == ("two-listeners", "eventlistener:uvicorn-health")
    many = CLEAN_LISTENER + "numprocs=2\nprocess_name=%(process_num)d\n"
    assert names(configured(CLEAN_PROGRAM, listener=many)) == ["two-listeners"]


def test_the_buffer_grows_with_the_processes() -> None:
    many = CLEAN_PROGRAM.replace("numprocs=2", "numprocs=64")
    (found,) = findings(configured(many))
    assert (found.trap.name, found.write) == ("listener-buffer", "buffer_size=195")


def test_a_priority_that_another_listener_has() -> None:
    other = "[eventlistener:mail]\ncommand=/bin/mail\nevents=EVENT\npriority=-10\n"
    (found,) = findings(configured(CLEAN_PROGRAM, other))
    assert found.trap.name == "listener-priority"
    assert "[eventlistener:mail]" in found.wrong
    assert names(configured(CLEAN_PROGRAM, other.replace("-10", "-9"))) == []
    both_default = CLEAN_LISTENER.replace("priority=-10\n", "")
    assert names(configured(CLEAN_PROGRAM, other.replace("priority=-10\n", ""), listener=both_default)) == [
        "listener-priority"
    ]


def test_stderr_of_a_daemon() -> None:
    to_terminal = CLEAN_LISTENER + "stderr_logfile=/dev/stderr\nstderr_logfile_maxbytes=0\n"
    foreground = {"supervisord": "nodaemon=true"}
    assert names(configured(CLEAN_PROGRAM, listener=to_terminal)) == ["listener-stderr-lost"]
    assert names(configured(CLEAN_PROGRAM, listener=to_terminal, **foreground)) == []  # type: ignore[arg-type]
    meant_for_n = CLEAN_PROGRAM + "stdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"
    assert names(configured(meant_for_n, listener=to_terminal)) == []
    rotating = to_terminal.replace("stderr_logfile_maxbytes=0\n", "")
    (found,) = findings(configured(meant_for_n, listener=rotating))
    assert (found.trap.name, found.section) == ("log-cannot-rotate", "eventlistener:uvicorn-health")
    runs = Running("unix:///s", 1, here=True, foreground=False, board_age_s=1.0)
    assert names(configured(meant_for_n, listener=to_terminal, running=runs)) == ["listener-stderr-lost"]


def test_a_programs_output_that_cannot_be_rotated() -> None:
    to_terminal = CLEAN_PROGRAM + "stdout_logfile=/dev/stdout\n"
    (found,) = findings(configured(to_terminal))
    assert (found.trap.name, found.section) == ("log-cannot-rotate", "fcgi-program:web")
    assert found.write == "stdout_logfile_maxbytes=0"
    assert names(configured(to_terminal + "stdout_logfile_maxbytes=0\n")) == []
    assert names(configured(to_terminal + "stdout_logfile_maxbytes=1MB\n")) == ["log-cannot-rotate"]
    redirected = CLEAN_PROGRAM + "redirect_stderr=true\nstderr_logfile=/dev/stderr\n"
    assert names(configured(redirected)) == []


# --- our own settings


def read(tmp_path: Path, *sections: str) -> list[str]:
    """Names of the findings in a real file, with the settings read from it."""
    file = tmp_path / "supervisord.conf"
    server = f"[unix_http_server]\nfile={tmp_path}/s.sock\n"
    file.write_text("\n".join(["[supervisord]", server, INTERFACE, *sections]))
    configuration = conf.read(str(file), {}, True)
    here = machine.read(configuration, {"PATH": ""}, str(tmp_path))
    site = Site(configuration, None, Machine(settings=here.settings, wrong_settings=here.wrong_settings))
    return [one.trap.name for one in examine(site) if one.trap.name != "tcp-44ms"]


def test_the_other_way_to_name_the_settings_file(tmp_path: Path) -> None:
    equals = READING.replace("--settings ", "--log-format json --settings=")
    assert read(tmp_path, equals, CLEAN_PROGRAM, "[supervisor-uvicorn]\npath=/health\n") == []


def test_who_runs_supervisord_where_no_file_says_it() -> None:
    """root's listener may look at everybody; a supervisord of somebody else starts a listener that may not."""
    worker = CLEAN_PROGRAM + "user=nobody\n"
    assert names(configured(worker, machine=Machine(users={**USERS, "": OTHER}, own_uid=0))) == []
    assert names(configured(worker, machine=Machine(users={**USERS, "": OTHER}, own_uid=1001))) == [
        "listener-other-user"
    ]


READING = CLEAN_LISTENER.replace("listen\n", "listen --settings supervisord.conf\n")


@pytest.mark.parametrize(
    ("expected", "sections"),
    [
        ([], (READING, CLEAN_PROGRAM, "[supervisor-uvicorn]\npath=/health\n")),
        (["settings-wrong"], (READING, CLEAN_PROGRAM, "[supervisor-uvicorn]\nsilent_after=soon\n")),
        (["settings-wrong"], (CLEAN_LISTENER.replace("listen\n", "listen --silent-after soon\n"), CLEAN_PROGRAM)),
        (["settings-wrong"], (CLEAN_LISTENER.replace("listen\n", "listen --no-such-flag\n"), CLEAN_PROGRAM)),
        (["settings-for-nobody"], (READING, CLEAN_PROGRAM, "[supervisor-uvicorn:wep]\npath=/health\n")),
        ([], (READING, CLEAN_PROGRAM, "[supervisor-uvicorn:web]\npath=/health\n")),
        (["settings-not-read"], (CLEAN_LISTENER, CLEAN_PROGRAM, "[supervisor-uvicorn:web]\npath=/health\n")),
    ],
)
def test_settings(tmp_path: Path, expected: list[str], sections: tuple[str, ...]) -> None:
    assert read(tmp_path, *sections) == expected


def test_a_client_certificate_and_a_path(tmp_path: Path) -> None:
    demanding = CLEAN_PROGRAM.replace("--fd 0", "--fd 0 --ssl-keyfile k --ssl-certfile c --ssl-cert-reqs 2")
    path = "[supervisor-uvicorn]\npath=/health\n"
    assert read(tmp_path, READING, demanding, path) == ["client-certificate-with-path"]
    assert read(tmp_path, READING, demanding.replace("--ssl-cert-reqs 2", "--ssl-cert-reqs 1"), path) == []
    assert read(tmp_path, READING, demanding) == []
    flag = CLEAN_LISTENER.replace("listen\n", "listen --path /health\n")
    assert read(tmp_path, flag, demanding) == ["client-certificate-with-path"]


# --- users


def test_a_listener_that_may_not_look() -> None:
    here = Machine(users=USERS)
    other = CLEAN_LISTENER + "user=daemon\n"
    server = "[unix_http_server]\nfile=/tmp/s.sock\nchmod=0700\nchown=daemon\n"
    worker = CLEAN_PROGRAM + "user=nobody\n"
    (found,) = findings(configured(worker, server=server, listener=other, machine=here))
    assert (found.trap.name, found.found, found.write) == ("listener-other-user", "user=daemon", "user=nobody")
    same = CLEAN_PROGRAM + "user=daemon\n"
    assert names(configured(same, server=server, listener=other, machine=here)) == []
    assert names(configured(worker, server=server, machine=here)) == []  # root
    hidden = Machine(users=USERS, hidepid=True)
    assert names(configured(worker, server=server, listener=other, machine=hidden)) == ["hidepid"]
    assert names(configured(same, server=server, listener=other, machine=hidden)) == []
