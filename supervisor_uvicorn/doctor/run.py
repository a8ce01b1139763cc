"""The verb ``doctor``: finds what there is to look at, looks, and says what it found."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor_uvicorn.config_page import search_paths
from supervisor_uvicorn.doctor import conf, machine, running
from supervisor_uvicorn.doctor.catalogue import examine
from supervisor_uvicorn.doctor.configuration import Configuration
from supervisor_uvicorn.doctor.findings import SEVERITIES, Finding
from supervisor_uvicorn.doctor.running import Daemon
from supervisor_uvicorn.doctor.site import Running, Site
from supervisor_uvicorn.find_supervisord import NotFound, rpc_from
from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.settings import SettingsError
from supervisor_uvicorn.supervisord.rpc import Rpc, RpcError

_ASK_S = 3.0


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """0: nothing found; 1: something; 2: wrong use, or nothing that can be looked at, and why."""
    try:
        seen = _look(args, env)
    except (NotFound, SettingsError) as error:
        print(f"supervisor-uvicorn doctor: {error}", file=sys.stderr)
        return 2
    except RpcError as error:
        from supervisor_uvicorn.verbs.asking import explain

        print(f"supervisor-uvicorn doctor: {explain(error)}", file=sys.stderr)
        return 2
    findings = examine(seen.site)
    if args.json:
        print(json.dumps({"findings": [one.as_json() for one in findings]}))
    else:
        _show(text(findings, seen.looked_at))
    return 1 if findings else 0


def _show(page: str) -> None:
    """A file may hold bytes that are no UTF-8; and with ``| head`` nobody reads on."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(page.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # the interpreter would flush once more at its end (Python's docs on SIGPIPE)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class _Seen:
    site: Site
    looked_at: str


def _look(args: argparse.Namespace, env: Mapping[str, str]) -> _Seen:
    """A file that is named, and the supervisord that runs with it; or a supervisord, and the file that it runs with.

    What was named and cannot be looked at is an error; what was only found is left out.
    """
    file = args.configuration or ""
    rpc = rpc_from(args, env) if args.serverurl or (not file and env.get("SUPERVISOR_SERVER_URL")) else None
    if rpc is not None:
        rpc.deadline_s = _ASK_S
    who = running.daemon(rpc) if rpc else Daemon()
    if not file:
        file = who.file if rpc else next((path for path in search_paths() if os.path.exists(path)), "")
    if not file and rpc is None:
        raise NotFound(
            "there is nothing to look at: no supervisord.conf where supervisorctl looks. "
            "Write: supervisor-uvicorn doctor -c FILE, or -s unix:///run/supervisor.sock"
        )
    named = bool(args.configuration) or rpc is None
    configuration = _read(file, env, who, named)
    if rpc is None and configuration is not None and (found := _its_supervisord(configuration, args)) is not None:
        rpc, who = found
        configuration = _read(file, env, who, named)
    runs: Running | None = None
    if rpc is not None:
        with rpc:
            runs, partial = running.read(rpc, who)
        configuration = replace(configuration or partial, live=running.live(runs))
    if runs is not None and runs.here and not _says_foreground(configuration):
        runs = replace(runs, foreground=bool(runs.foreground))
    environ = who.environ if who.environ is not None else env
    directory = who.directory or os.path.dirname(os.path.abspath(configuration.file if configuration else ""))
    here = machine.read(configuration, environ, directory, who.argv, who.uid)
    return _Seen(Site(configuration, runs, here), _looked_at(configuration, runs))


def _says_foreground(configuration: Configuration | None) -> bool:
    return configuration is not None and configuration.supervisord.true("nodaemon")


def _read(file: str, env: Mapping[str, str], who: Daemon, named: bool) -> Configuration | None:
    if not file:
        return None
    try:
        return conf.read(file, env if who.environ is None else who.environ, who.environ is not None)
    except SettingsError:
        if named:
            raise
        return None


def _its_supervisord(configuration: Configuration, args: argparse.Namespace) -> tuple[Rpc, Daemon] | None:
    """The supervisord that runs with this very file, if one does and lets us ask."""
    for section in configuration.of_kind("unix_http_server", "inet_http_server"):
        if section.kind == "unix_http_server":
            url = f"unix://{section.text('file')}"
        else:
            host, _, port = section.text("port").rpartition(":")
            url = f"http://{'127.0.0.1' if host in ('', '*', '0.0.0.0') else host}:{port}"
        name, password = args.username or section.text("username"), args.password or section.text("password")
        try:
            rpc = Rpc(url, name, password, _ASK_S)
            who = running.daemon(rpc)
        except RpcError as error:
            if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):  # those: it does not run
                print(f"supervisor-uvicorn doctor: only the file is looked at: {error}", file=sys.stderr)
            continue
        # An RPC server without supervisor's methods tells no pid; a unix socket is this file's own all the same.
        same = who.file and os.path.realpath(who.file) == os.path.realpath(configuration.file)
        if same or (who.no_interface and section.kind == "unix_http_server"):
            return rpc, who
        rpc.close()
    return None


def _looked_at(configuration: Configuration | None, runs: Running | None) -> str:
    parts = []
    if configuration is not None and configuration.file:
        included = {one.file for one in configuration.sections} - {configuration.file}
        more = f" and {len(included)} included" if included else ""
        parts.append(f"{configuration.file}{more}")
    if runs is not None:
        pid = f" (pid {runs.pid})" if runs.pid else ""
        elsewhere = "" if runs.here or not runs.pid else ", whose processes are not shown to us here"
        parts.append(f"supervisord{pid} at {runs.url}{elsewhere}")
    return ", and ".join(parts) or "nothing"


def text(findings: Sequence[Finding], looked_at: str) -> str:
    """For people: grouped by place, and how many there are."""
    lines = [f"Looked at {looked_at}."]
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.file, finding.section), []).append(finding)
    for (file, section), found in groups.items():
        place = ", ".join(part for part in (file, f"[{section}]" if section else "") if part)
        lines += ["", place or "As it runs"]
        for one in found:
            where = f" (line {one.line})" if one.line else ""
            lines += [f"  {one.trap.severity}  {one.trap.name}: {one_line(one.found)}{where}"]
            lines += textwrap.wrap(
                f"{one.wrong} {one.trap.why}", 100, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            lines += ["      Write:"]
            lines += [f"          {line}" for line in (one.write or one.trap.write).splitlines()]
    counts = [(sum(one.trap.severity == kind for one in findings), kind) for kind in SEVERITIES]
    told = ", ".join(
        f"{count} {kind}" + ("s" if count > 1 and kind != "advice" else "") for count, kind in counts if count
    )
    lines += ["", f"{len(findings)} found: {told}." if findings else "Nothing found."]
    return "\n".join(lines) + "\n"
