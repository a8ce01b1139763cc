"""Checks of our own settings: ``[supervisor-uvicorn]``, ``[supervisor-uvicorn:GROUP]`` and the listener's flags."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

from supervisor_uvicorn.doctor.configuration import listen_arguments
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.masked import written
from supervisor_uvicorn.doctor.site import Site, at, where_option
from supervisor_uvicorn.settings_file import SECTION

WRONG = Trap(
    "settings-wrong",
    "error",
    "The listener ends before it is READY.",
    "A wrong value stands as this line in its stderr log, and the listener ends up FATAL: nobody watches.",
    "; what the message says",
    "our settings.py",
)
NOBODY = Trap(
    "settings-for-nobody",
    "warning",
    "There is no such program, so these settings hold for nobody.",
    "The program runs with the general settings, or with the defaults, and nothing says so.",
    "[supervisor-uvicorn:web]      ; the name of the program, or of its [group:...]",
    "our settings.py",
)
UNREAD = Trap(
    "settings-not-read",
    "warning",
    "No listener reads these settings.",
    "supervisord leaves such sections alone, and the listener reads only the file that --settings names.",
    "command=supervisor-uvicorn listen --settings %(here)s/supervisord.conf",
    "our settings.py; supervisor 4.3.0, options.py",
)
CLIENT_CERTIFICATE = Trap(
    "client-certificate-with-path",
    "warning",
    "Workers that demand a client certificate cannot be asked with HTTP, so path= has no effect.",
    "The listener has no certificate: its pulse is an unfinished ClientHello, and wrong answers are not seen.",
    "; take path= away for this program, or --ssl-cert-reqs 2 from uvicorn, with the proxy demanding certificates",
    "uvicorn 0.54, config.py --ssl-cert-reqs; our experiments",
)

TRAPS = (WRONG, NOBODY, UNREAD, CLIENT_CERTIFICATE)


def wrong(site: Site) -> Iterator[Finding]:
    for name, message in site.machine.wrong_settings:
        section = site.configuration.section(name) if site.configuration else None
        if section is not None:
            yield at(WRONG, section, "command", found=message)


def sections(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    if configuration is None:
        return
    read = {_file_of(listener.text("command"), configuration.file) for listener in configuration.listeners}
    for section in configuration.sections:
        if section.kind != SECTION:
            continue
        if section.title and section.title not in configuration.groups:
            names = ", ".join(sorted(program.group for program in configuration.programs))
            yield at(NOBODY, section, detail=f"Programs of uvicorn here: {names or 'none'}.")
        if configuration.listeners and not read & {
            os.path.realpath(configuration.file),
            os.path.realpath(section.file),
        }:
            first = configuration.listeners[0].values.get("command")
            write = written(first.written, f" --settings {configuration.file}") if first else ""
            yield at(UNREAD, section, write=write)


def _file_of(command: str, beside: str) -> str:
    """The file that ``--settings`` names; "" for none. A relative one: beside the configuration, for want of better."""
    words = listen_arguments(command)
    for at_word, word in enumerate(words):
        name = word.partition("=")[2] if word.startswith("--settings=") else ""
        if word == "--settings" and at_word + 1 < len(words):
            name = words[at_word + 1]
        if name:
            return os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(beside)), name))
    return ""


def client_certificate(site: Site) -> Iterator[Finding]:
    settings = site.machine.settings
    for program in site.configuration.programs if site.configuration else ():
        if settings is None or program.number("ssl-cert-reqs") != ssl.CERT_REQUIRED:
            continue
        path = settings.of(program.group).path
        if path is not None:
            key, words = where_option(program, "ssl-cert-reqs")
            yield at(CLIENT_CERTIFICATE, program.section, key, found=f"{words}, path={path}")


CHECKS = (wrong, sections, client_certificate)
