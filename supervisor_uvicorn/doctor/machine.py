"""Reads what this machine adds to a configuration: users, /proc's mount, interpreters, plugins, our own settings."""

from __future__ import annotations

import contextlib
import grp
import io
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping

from supervisor_uvicorn.doctor.configuration import Configuration, Section, listen_arguments
from supervisor_uvicorn.doctor.interpreters import inspect, python_of, why_not_importable
from supervisor_uvicorn.doctor.masked import masked_refusal
from supervisor_uvicorn.doctor.site import Interpreter, Machine, User
from supervisor_uvicorn.settings import ListenSettings, SettingsError, load

_FACTORIES = {"rpcinterface": "supervisor.rpcinterface_factory", "ctlplugin": "supervisor.ctl_factory"}
_MARKS_OF_A_CONTAINER = ("/.dockerenv", "/run/.containerenv")  # docker; podman


def read(
    configuration: Configuration | None,
    environ: Mapping[str, str],
    directory: str,
    supervisord: tuple[str, ...] = (),
    supervisord_uid: int | None = None,
) -> Machine:
    """``environ`` and ``directory`` are supervisord's own where it runs here, else ours; ``supervisord`` is its command
    line, () where it does not run here."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "supervisord")
    words = supervisord or (shutil.which("supervisord", path=environ.get("PATH")) or beside,)
    daemon = python_of(words, environ, directory)
    interpreters = dict(_interpreters(configuration, environ, directory)) if configuration else {}
    if daemon:
        interpreters["supervisord"] = inspect(daemon)
    missing = dict(_not_importable(configuration, daemon, environ, directory)) if configuration and daemon else {}
    settings, wrong = _settings(configuration, directory) if configuration else (None, ())
    return Machine(
        container=any(map(os.path.exists, _MARKS_OF_A_CONTAINER)) or "KUBERNETES_SERVICE_HOST" in environ,
        hidepid=_proc_hides(),
        own_uid=os.geteuid(),
        users=dict(_users(configuration, os.geteuid() if supervisord_uid is None else supervisord_uid)),
        groups=dict(_groups(configuration)),
        interpreters=interpreters,
        not_importable=missing,
        settings=settings,
        wrong_settings=wrong,
    )


def hides(mounts: str) -> bool:
    """Is one of these mounts (proc(5), ``/proc/mounts``) a /proc with ``hidepid``?

    >>> hides("proc /proc proc rw,nosuid,hidepid=2 0 0"), hides("proc /proc proc rw,relatime 0 0")
    (True, False)
    """
    for line in mounts.splitlines():
        fields = line.split()
        if fields[1:3] != ["/proc", "proc"]:
            continue
        for option in fields[3].split(","):
            if option.startswith("hidepid=") and option not in ("hidepid=0", "hidepid=off"):
                return True
    return False


def _proc_hides() -> bool:
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            return hides(mounts.read())
    except OSError:
        return False


def _users(configuration: Configuration | None, uid: int) -> Iterator[tuple[str, User]]:
    yield "", _user(str(uid)) or User(uid, (uid,))
    for section in configuration.sections if configuration else ():
        for name in (section.text("user"), section.text("chown").partition(":")[0]):
            user = _user(name) if name else None
            if user is not None:
                yield name, user


def _user(name: str) -> User | None:
    """By name or number, as supervisor 4.3.0, datatypes.py ``name_to_uid``. None: not on this machine."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None
    return User(entry.pw_uid, (entry.pw_gid, *os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _groups(configuration: Configuration | None) -> Iterator[tuple[str, int]]:
    for section in configuration.of_kind("unix_http_server") if configuration else ():
        name = section.text("chown").partition(":")[2]
        with contextlib.suppress(KeyError):
            if name:
                yield name, int(name) if name.isdigit() else grp.getgrnam(name).gr_gid


def _interpreters(
    configuration: Configuration, environ: Mapping[str, str], directory: str
) -> Iterator[tuple[str, Interpreter]]:
    known: dict[str, Interpreter] = {}
    commands = [(program.section.name, list(program.command.words)) for program in configuration.programs]
    commands += [(section.name, _words(section)) for section in configuration.listeners]
    for name, words in commands:
        python = python_of(words, environ, directory)
        if python:
            if python not in known:
                known[python] = inspect(python)
            yield name, known[python]


def _words(section: Section) -> list[str]:
    try:
        return shlex.split(section.text("command"))
    except ValueError:
        return []


def _not_importable(
    configuration: Configuration, python: str, environ: Mapping[str, str], directory: str
) -> Iterator[tuple[str, str]]:
    # `python -m supervisor.supervisord` looks in its directory first, a script beside itself.
    search = [directory, *(path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    for section in configuration.of_kind(*_FACTORIES):
        spec = section.text(_FACTORIES[section.kind])
        why = why_not_importable(spec, python, search) if spec else f"There is no {_FACTORIES[section.kind]}= in it."
        if why:
            yield section.name, why


def _settings(
    configuration: Configuration, directory: str
) -> tuple[ListenSettings | None, tuple[tuple[str, str], ...]]:
    """The settings of the first listener whose settings can be read, and what is wrong with the others'."""
    from supervisor_uvicorn.cli import parser

    found, wrong = None, []
    for section in configuration.listeners:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                args = parser().parse_args(["listen", *listen_arguments(section.text("command"))])
        except SystemExit as error:
            if error.code:
                said_last = said.getvalue().strip().splitlines()[-1]
                wrong.append((section.name, masked_refusal(said_last, section.text("command"))))
            continue
        if args.settings:
            args.settings = os.path.join(directory, args.settings)
        try:
            found = found or load(args)
        except SettingsError as error:
            wrong.append((section.name, masked_refusal(str(error), section.text("command"))))
    return found, tuple(wrong)
