"""The verb ``config``: prints the sections to paste into supervisord.conf, right for this host. Floor 4.

Nothing is written anywhere: supervisord.conf is the operator's. What is printed depends on what is there already, so
an existing configuration is looked for where supervisorctl looks, and read with the parser that supervisor uses (its
options and its ``[include]``, see ``settings_file``; supervisor itself is not imported, so that this verb also works
where supervisor 4.2.5 cannot be, for want of pkg_resources).
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from configparser import RawConfigParser
from dataclasses import dataclass

from supervisor_uvicorn.settings import ENTRIES, Entry
from supervisor_uvicorn.settings_file import SECTION, SettingsError, included_files, parse_file
from supervisor_uvicorn.supervisord.quick_conf import search_path

SECTION_NAME = "uvicorn-health"
_RPCINTERFACE = "supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface"
_CTLPLUGIN = "supervisor_uvicorn.plugin.ctl:make_controller_plugin"
_TRUE = ("yes", "true", "on", "1")  # supervisor 4.3.0, datatypes.py TRUTHY_STRINGS


@dataclass(frozen=True)
class Found:
    """What an existing configuration has of what we need. ``file`` "" is: there is none."""

    file: str = ""
    has_supervisord: bool = False
    nodaemon: bool = False
    server: str = ""  # the section whose server children are pointed to, "" for none
    server_url: str = ""
    server_has_username: bool = False
    has_rpcinterface: bool = False
    has_supervisorctl: bool = False
    has_board: bool = False  # [rpcinterface:...] with our factory
    has_ctlplugin: bool = False
    groups: tuple[str, ...] = ()
    listener: str = ""  # a section that runs us already


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``config`` takes on its command line."""
    parser.add_argument(
        "-c",
        "--configuration",
        metavar="FILE",
        help="the supervisord.conf to write for; without it, the one that supervisorctl would find",
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="a program to watch, as in supervisorctl; without it, every one"
    )


def run(args: argparse.Namespace) -> int:
    """Print the sections. 0; 2 with a line on stderr where FILE cannot be read or a NAME is none."""
    try:
        text = config_text(args.names, args.configuration)
    except SettingsError as error:
        print(f"supervisor-uvicorn config: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


def search_paths() -> list[str]:
    """Where supervisorctl looks for a configuration, in order.

    supervisorctl takes the directory above its own script; it is beside our interpreter.
    """
    return search_path(os.path.abspath(sys.executable))


def listen_command() -> list[str]:
    """The command of the listener with absolute paths: supervisord's PATH is not the one of the shell that asks."""
    script = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "supervisor-uvicorn")
    if os.access(script, os.X_OK):
        return [script, "listen"]
    return [os.path.abspath(sys.executable), "-m", "supervisor_uvicorn", "listen"]


def inspect(file: str) -> Found:
    """What the configuration ``file`` has, with what it includes. Raises :class:`SettingsError`."""
    parser = parse_file(file)
    for included in included_files(parser, file):
        parser.read(included, encoding="utf-8")
    server = server_url = ""
    # supervisor 4.3.0, options.py: children are pointed to the first unix server, else to the inet one
    if parser.has_section("unix_http_server"):
        server = "unix_http_server"
        server_url = "unix://" + parser.get(server, "file", fallback="")
    elif parser.has_section("inet_http_server"):
        server = "inet_http_server"
        host, _, port = parser.get(server, "port", fallback="9001").rpartition(":")
        server_url = f"http://{'127.0.0.1' if host in ('', '*', '0.0.0.0') else host}:{port}"
    kinds = ("program:", "fcgi-program:", "group:")
    ours = ("supervisor-uvicorn listen", "supervisor_uvicorn listen")
    return Found(
        file=os.path.abspath(file),
        has_supervisord=parser.has_section("supervisord"),
        nodaemon=parser.get("supervisord", "nodaemon", fallback="").strip().lower() in _TRUE,
        server=server,
        server_url=server_url,
        server_has_username=bool(server) and bool(parser.get(server, "username", fallback="")),
        has_rpcinterface=parser.has_section("rpcinterface:supervisor"),
        has_supervisorctl=parser.has_section("supervisorctl"),
        has_board=_has_factory(parser, "rpcinterface:", "supervisor.rpcinterface_factory", _RPCINTERFACE),
        has_ctlplugin=_has_factory(parser, "ctlplugin:", "supervisor.ctl_factory", _CTLPLUGIN),
        groups=tuple(one.partition(":")[2].strip() for one in parser.sections() if one.startswith(kinds)),
        listener=next(
            (
                one
                for one in parser.sections()
                if one.startswith("eventlistener:")
                and any(words in parser.get(one, "command", fallback="") for words in ours)
            ),
            "",
        ),
    )


def _has_factory(parser: RawConfigParser, kind: str, key: str, factory: str) -> bool:
    return any(one.startswith(kind) and parser.get(one, key, fallback="") == factory for one in parser.sections())


def has_our_python(script: str) -> bool:
    """Does the script ``supervisord`` (or ``supervisorctl``) run with this interpreter, and so find our package?

    The first on PATH; where there is none, the one beside our interpreter. A script with another shebang is somebody
    else's: a distribution's supervisord does not see into our virtual environment.
    """
    ours = os.path.abspath(sys.executable)
    found = shutil.which(script) or os.path.join(os.path.dirname(ours), script)
    try:
        with open(found, "rb") as file:
            first = file.readline(1024)
    except OSError:
        return False
    words = first[2:].split() if first.startswith(b"#!") else []
    return bool(words) and _same_python(os.fsdecode(words[0]), ours)


def _same_python(one: str, other: str) -> bool:
    """``bin/python3`` and ``bin/python`` of one virtual environment are the same; not those of two environments."""
    same_place = os.path.dirname(os.path.abspath(one)) == os.path.dirname(other)
    return same_place and os.path.realpath(one) == os.path.realpath(other)


def config_text(names: Sequence[str] = (), conf: str | None = None) -> str:
    """The sections for the programs ``names`` (empty, or ``all``: every one), to go with ``conf``.

    ``conf`` None: the first of :func:`search_paths` that exists. Raises :class:`SettingsError` for a file that cannot
    be read and for a name that is none.
    """
    if conf is None:
        conf = next((path for path in search_paths() if os.path.exists(path)), None)
    found = inspect(conf) if conf else Found()
    groups = _groups(names)
    parts = [_preface(found, groups), *_foundation(found), _listener(found, groups), *_plugins(found)]
    parts.append(_general(found, groups))
    parts += [_of_group(group) for group in groups]
    return "\n".join(part for part in parts if part)


def _groups(names: Sequence[str]) -> list[str]:
    if "all" in names:
        return []
    groups: list[str] = []
    for name in names:
        group = name.partition(":")[0]
        if not group or any(letter.isspace() or letter in "/[]" for letter in group):
            raise SettingsError(f'"{name}" is not a name as supervisorctl knows them; write for example web, or web:*')
        if group not in groups:
            groups.append(group)
    return groups


def _preface(found: Found, groups: Sequence[str]) -> str:
    lines = []
    if found.file:
        lines.append(f"; Add this to {found.file}, then: supervisorctl update")
    else:
        lines.append("; No supervisord.conf was found (-c FILE names one), so this is all that one needs but programs.")
    if found.listener:
        lines.append(f"; [{found.listener}] is there already: put this in its place. A second listener only stands by.")
    if found.file and not found.has_supervisord:
        lines.append(f"; {found.file} has no [supervisord] section. Is it the whole configuration?")
    if found.file:
        lines += [
            f"; There is no program or group {group} in {found.file}." for group in groups if group not in found.groups
        ]
    if found.file and not (found.server and found.has_rpcinterface and found.has_board):
        lines.append("; supervisord itself must be restarted: a server and an rpcinterface are not taken by an update.")
    return "\n".join(lines) + "\n"


def _foundation(found: Found) -> list[str]:
    """The sections without which no listener can work, where they lack."""
    parts = []
    if not found.has_supervisord:
        parts.append("[supervisord]\n")
    url = found.server_url
    if not found.server:
        root = os.geteuid() == 0 and os.path.isdir("/run")
        file = "/run/supervisor.sock" if root else "%(here)s/supervisor.sock"
        url = f"unix://{file}"
        parts.append(
            "[unix_http_server]\n"
            f"file={file}\n"
            "chmod=0700                    ; for a listener with another user=: 0770, and chown=USER:GROUP\n"
        )
    if not found.has_rpcinterface:
        parts.append(
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        )
    if not found.has_supervisorctl:
        credentials = f";username=   ; as in [{found.server}]\n;password=\n" if found.server_has_username else ""
        parts.append(f"[supervisorctl]\nserverurl={url}\n{credentials}")
    return parts


def _listener(found: Found, groups: Sequence[str]) -> str:
    words = listen_command()
    if found.file:
        words += ["--settings", found.file]
    for group in groups:
        words += ["--group", group]
    command = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    lines = [
        f"[eventlistener:{SECTION_NAME}]",
        f"command={command}",
        "events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION",
        "buffer_size=100",
        "autorestart=true",
        "priority=-10                                 ; its own: listeners of one priority get each other's events",
        "stdout_logfile=NONE                          ; the protocol",
    ]
    if found.server_has_username:
        lines += [
            f"; supervisord does not hand these to its children: the username= and password= of [{found.server}].",
            'environment=SUPERVISOR_USERNAME="USERNAME",SUPERVISOR_PASSWORD="PASSWORD"',
        ]
    if found.nodaemon:
        lines += ["stderr_logfile=/dev/stderr                   ; what it does and why", "stderr_logfile_maxbytes=0"]
    else:
        lines += [
            "; What it does and why goes to a file that supervisord names: supervisorctl tail uvicorn-health stderr",
            "; With supervisord -n (a container) take these two lines too. Else not: a daemon's /dev/stderr is lost.",
            ";stderr_logfile=/dev/stderr",
            ";stderr_logfile_maxbytes=0",
        ]
    return "\n".join(lines) + "\n"


def _plugins(found: Found) -> list[str]:
    """What runs inside of supervisord and supervisorctl. Neither of them works with a section that it cannot import."""
    parts = []
    if not found.has_board:
        section = f"[rpcinterface:uvicorn]\nsupervisor.rpcinterface_factory = {_RPCINTERFACE}\n"
        what = "Optional: status, restart, pause, resume and history; TCP_NODELAY; the socket kept open in a restart."
        parts.append(_plugin(section, what, "supervisord"))
    if not found.has_ctlplugin:
        section = f"[ctlplugin:uvicorn]\nsupervisor.ctl_factory = {_CTLPLUGIN}\n"
        parts.append(
            _plugin(section, "Optional: the same as supervisorctl uvicorn status, restart, ...", "supervisorctl")
        )
    return parts


def _plugin(section: str, what: str, script: str) -> str:
    """As a comment where ``script`` has another Python: the loss would be greater than the gain."""
    if has_our_python(script):
        return f"; {what}\n{section}"
    commented = "".join(f";{line}\n" for line in section.splitlines())
    return (
        f"; {what}\n"
        f"; Only where {script} has a Python that finds supervisor_uvicorn (here it seems to have another one);\n"
        f"; else {script} does not start any more with these lines.\n"
        f"{commented}"
    )


def _general(found: Found, groups: Sequence[str]) -> str:
    named = "They are read because --settings in the command above names this file."
    unnamed = "To have them read, add --settings and the name of this file to the command above."
    lines = [
        "; Optional: the settings, with their defaults. `supervisor-uvicorn listen --help` says what each one means.",
        f"; {named if found.file else unnamed}",
        f"[{SECTION}]",
    ]
    # Where --group is in the command, group= here would take its place.
    lines += [_default(entry) for entry in ENTRIES if not (groups and entry.key == "group")]
    return "\n".join(lines) + "\n"


def _of_group(group: str) -> str:
    lines = [f"; What differs for {group}; it counts before [{SECTION}] and before a flag.", f"[{SECTION}:{group}]"]
    lines += [_default(entry) for entry in ENTRIES if entry.scope == "program"]
    return "\n".join(lines) + "\n"


def _default(entry: Entry) -> str:
    if not entry.is_set:
        return f";{entry.key}={entry.example}".ljust(45) + f" ; not set by default; {entry.kind.unit}"
    return f";{entry.key}={entry.default}".ljust(45) + f" ; {entry.kind.unit}"
