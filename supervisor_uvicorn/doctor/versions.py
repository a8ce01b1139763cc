"""Checks of versions, as the files beside an interpreter tell them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.site import Site

OLDEST_UVICORN = (0, 30)
OLDEST_SUPERVISOR = (4, 2, 5)
FIRST_WITHOUT_PKG_RESOURCES = (82,)  # setuptools
OLDEST_PYTHON = (3, 10)

OLD_UVICORN = Trap(
    "uvicorn-old",
    "warning",
    "This uvicorn is older than any that supervisor-uvicorn is tested with.",
    "The oldest is 0.30. Older ones may read a connection, end, and name their options otherwise.",
    "; pip install 'uvicorn>=0.30'",
    "our .ci/run",
)
OLD_SUPERVISOR = Trap(
    "supervisor-old",
    "warning",
    "This supervisor is older than any that supervisor-uvicorn is tested with.",
    "The oldest is 4.2.5 (Debian 12's).",
    "; pip install 'supervisor>=4.3.0'",
    "our .ci/run",
)
PKG_RESOURCES = Trap(
    "supervisor-without-pkg-resources",
    "error",
    "This supervisor needs pkg_resources, and there is none.",
    "supervisor 4.2.5 imports it at its start and ends with ModuleNotFoundError. setuptools 82 no longer has it, and "
    "Python 3.12 and newer come without setuptools.",
    "; pip install 'supervisor>=4.3.0', or 'setuptools<82'",
    "supervisor 4.2.5, options.py; setuptools 82.0",
)
OLD_PYTHON = Trap(
    "python-old",
    "error",
    "supervisor-uvicorn needs Python 3.10 or newer.",
    "It cannot be installed for this one: the listener does not start, and an [rpcinterface:uvicorn] keeps supervisord "
    "from starting.",
    "; a virtual environment of Python 3.10 or newer, with supervisor and supervisor-uvicorn in it",
    "our setup.py, python_requires",
)

TRAPS = (OLD_UVICORN, OLD_SUPERVISOR, PKG_RESOURCES, OLD_PYTHON)


def number(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> number("0.30.1.post2"), number("4.3.0")
    ((0, 30, 1), (4, 3, 0))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def versions(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    programs = {program.section.name: program for program in configuration.programs} if configuration else {}
    listeners = {section.name: section for section in configuration.listeners} if configuration else {}
    for name, interpreter in site.machine.interpreters.items():
        section = programs[name].section if name in programs else listeners.get(name)
        file, line = (section.file, section.line) if section else ("", 0)
        title = section.name if section else ""

        def found(trap: Trap, words: str, place: tuple[str, str, int] = (file, title, line)) -> Finding:
            return Finding(trap, words, *place)

        packages, where = interpreter.packages, f" ({interpreter.python})"
        uvicorn, supervisor = number(packages.get("uvicorn", "")), number(packages.get("supervisor", ""))
        if name in programs and uvicorn and uvicorn < OLDEST_UVICORN:
            yield found(OLD_UVICORN, f"uvicorn {packages['uvicorn']}{where}")
        if name == "supervisord" and supervisor:
            if supervisor < OLDEST_SUPERVISOR:
                yield found(OLD_SUPERVISOR, f"supervisor {packages['supervisor']}{where}")
            setuptools = number(packages.get("setuptools", ""))
            if supervisor < (4, 3) and not (
                interpreter.has_pkg_resources or (setuptools and setuptools < FIRST_WITHOUT_PKG_RESOURCES)
            ):
                has = f"setuptools {packages['setuptools']}" if setuptools else "no setuptools"
                yield found(PKG_RESOURCES, f"supervisor {packages['supervisor']}, {has}{where}")
        plugin = name == "supervisord" and configuration is not None and configuration.has_board
        if interpreter.version and interpreter.version < OLDEST_PYTHON and (name in listeners or plugin):
            yield found(OLD_PYTHON, f"Python {interpreter.version[0]}.{interpreter.version[1]}{where}")


CHECKS = (versions,)
