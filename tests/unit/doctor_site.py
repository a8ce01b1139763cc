"""A configuration with nothing to be found in it, into which a test plants one trap."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from supervisor_uvicorn.doctor import conf
from supervisor_uvicorn.doctor.catalogue import examine
from supervisor_uvicorn.doctor.findings import Finding
from supervisor_uvicorn.doctor.site import Machine, Running, Site

CLEAN_PROGRAM = """\
[fcgi-program:web]
socket=tcp://127.0.0.1:8000
command=/venv/bin/uvicorn --fd 0 --timeout-graceful-shutdown 5 app:app
numprocs=2
process_name=web-%(process_num)d
autorestart=true
killasgroup=true
environment=PYTHONFAULTHANDLER="1"
"""

CLEAN_LISTENER = """\
[eventlistener:uvicorn-health]
command=/venv/bin/supervisor-uvicorn listen
events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION
buffer_size=100
autorestart=true
priority=-10
stdout_logfile=NONE
"""

CLEAN_SERVER = """\
[unix_http_server]
file=/tmp/supervisor.sock
"""

INTERFACE = """\
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

PLUGIN = """\
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
"""


def configured(
    *sections: str,
    server: str = CLEAN_SERVER,
    interface: str = INTERFACE,
    listener: str = CLEAN_LISTENER,
    plugin: bool = True,
    supervisord: str = "",
    environ: Mapping[str, str] | None = None,
    machine: Machine | None = None,
    running: Running | None = None,
) -> Site:
    """A whole site with these sections in its file, read by the very reader."""
    parts = [f"[supervisord]\n{supervisord}\n", server, interface, PLUGIN if plugin else "", *sections, listener]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "supervisord.conf"
        path.write_text("\n".join(parts))
        read = conf.read(str(path), environ if environ is not None else dict(os.environ), environ is not None)
    return Site(read, running, machine or Machine())


def findings(site: Site) -> list[Finding]:
    return examine(site)


def names(site: Site) -> list[str]:
    """The findings of ``site``; a message of supervisord itself stands beside its name."""
    return [f"refused: {one.found}" if one.trap.name == "refused" else one.trap.name for one in examine(site)]


def place(text: str, finding: Finding, plugin: bool = True) -> str:
    """The key at the line that a finding names; ``text`` is the first section of :func:`configured`."""
    parts = ["[supervisord]\n\n", CLEAN_SERVER, INTERFACE, PLUGIN if plugin else "", text]
    return "\n".join(parts).splitlines()[finding.line - 1].partition("=")[0]
