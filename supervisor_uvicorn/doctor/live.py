"""Checks of a supervisord that runs: what its processes are, and whether its listener works."""

from __future__ import annotations

import math
from collections.abc import Iterator

from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.listeners import NO_LISTENER
from supervisor_uvicorn.doctor.masked import masked
from supervisor_uvicorn.doctor.site import Process, Running, Site, at
from supervisor_uvicorn.doctor.trees import trees
from supervisor_uvicorn.model import State

FULL_SHARE = 0.8  # of the descriptors that a process may have

LISTENER_DOWN = Trap(
    "listener-not-running",
    "error",
    "The listener does not run, so nobody watches.",
    "Hung workers stay, and no roll goes on.",
    "; see its stderr log, then: supervisorctl start NAME",
    "supervisord's own answer (getAllProcessInfo)",
)
NOT_LOADED = Trap(
    "plugin-not-loaded",
    "warning",
    "The file has [rpcinterface:uvicorn], and the supervisord that runs has not loaded it.",
    "An rpcinterface is loaded at the start of supervisord alone: `supervisorctl update` does not do it. Until then "
    "there is no board, no TCP_NODELAY, and no socket kept open.",
    "; restart supervisord, or: supervisorctl reload (both end every worker)",
    "supervisor 4.3.0, supervisord.py Supervisor.run",
)
NO_PLUGIN = Trap(
    "no-board",
    "advice",
    "supervisord has no health board.",
    "Without [rpcinterface:uvicorn] `status`, `restart`, `pause`, `resume` and `history` have nothing to read; `check` "
    "works.",
    "[rpcinterface:uvicorn]\n"
    "supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface",
    "our plugin/rpcinterface.py",
)
STALE = Trap(
    "board-stale",
    "error",
    "The listener runs and does not report.",
    "It reports each 5 s (with a longer pulse, each pulse), and is stale after three of these. It may be stopped or "
    "hung, or supervisord has given it up (state UNKNOWN of the protocol, which no command of supervisorctl shows).",
    "; see its stderr log; supervisorctl restart NAME",
    "supervisor 4.3.0, dispatchers.py (a stray byte on a listener's stdout); our report/page.py",
)
TREE = Trap(
    "served-by-a-child",
    "warning",
    "Another process serves than the one that supervisord started.",
    "supervisord knows and signals the parent alone: the listener names such a process as not watched and never "
    "touches it, so a child that hangs stays.",
    "; one uvicorn for each process of supervisord: numprocs=4, no --workers, `exec` in wrappers",
    "the kernel's own tables, at this moment",
)
HELPERS = Trap(
    "helpers-without-killasgroup",
    "advice",
    "This worker has child processes, and they survive it when it is killed.",
    "A helper (a process pool) that lives on holds the shared socket; a TCP one cannot be bound anew then, and "
    "supervisord ends with exit code 1.",
    "stopasgroup=true\nkillasgroup=true",
    "supervisor 4.3.0, process.py Subprocess.kill; our experiments",
)
NEARLY_FULL = Trap(
    "descriptors-nearly-used",
    "warning",
    "This worker has nearly as many descriptors open as it may have.",
    "At the limit accept() fails with EMFILE: new connections wait, and the application cannot open files.",
    "minfds=65536                  ; in [supervisord]; takes a restart of supervisord",
    "/proc/PID/fd and /proc/PID/limits, at this moment; supervisor 4.3.0, options.py set_rlimits_or_exit",
)

TO_SOCKET = Trap(
    "log-to-socket",
    "error",
    "Supervisord's own output is a socket here, and a socket cannot be opened by the name /dev/stdout.",
    "open() fails with ENXIO, so the process cannot be started, and ends FATAL. systemd makes a service's output such "
    "a socket, of its journal.",
    "stdout_logfile=/var/log/%(program_name)s-%(process_num)d.log",
    "open(2), ENXIO; systemd.exec(5), StandardOutput=journal; tried",
)

TRAPS = (LISTENER_DOWN, NOT_LOADED, NO_PLUGIN, STALE, TREE, HELPERS, NEARLY_FULL, TO_SOCKET)


def listener(site: Site) -> Iterator[Finding]:
    running = site.running
    if running is None or running.no_interface:
        return
    ours = [one for one in running.processes if one.listener]
    file_tells = site.configuration is not None and not site.configuration.partial
    if not ours and not file_tells and any(one.uvicorn for one in running.processes):
        yield Finding(NO_LISTENER, f"{running.url}: no process runs supervisor-uvicorn listen")
    for one in ours:
        if one.state not in (State.RUNNING, State.STARTING):
            words = f"{one.name} is {one.state.value}" + (f": {masked(one.spawnerr)}" if one.spawnerr else "")
            yield Finding(LISTENER_DOWN, words, write=_look(one, "start"))
    yield from _board(site, running, ours)


def _board(site: Site, running: Running, ours: list[Process]) -> Iterator[Finding]:
    up = [one for one in ours if one.state is State.RUNNING]
    if running.board_age_s is None:
        if site.configuration is not None and not site.configuration.partial and site.configuration.has_board:
            yield Finding(NOT_LOADED, f"{running.url}: fault UNKNOWN_METHOD for uvicorn.board")
        elif ours:
            yield Finding(NO_PLUGIN, f"{running.url}: fault UNKNOWN_METHOD for uvicorn.board")
    elif up and (running.board_stale or math.isinf(running.board_age_s)):
        age = "never" if math.isinf(running.board_age_s) else f"{running.board_age_s:.0f} s ago"
        yield Finding(STALE, f"{up[0].name} is RUNNING, its last report: {age}", write=_look(up[0], "restart"))


def _look(process: Process, verb: str) -> str:
    log = process.stderr_log or f"supervisorctl tail {process.name} stderr"
    return f"; see its stderr log: {log}\n; then: supervisorctl {verb} {process.name}"


def processes(site: Site) -> Iterator[Finding]:
    known = {found.section.partition(":")[2] for found in trees(site)}
    told: set[tuple[str, str]] = set()
    for one in site.running.processes if site.running else ():
        group = one.name.partition(":")[0]
        for trap, words in _of(one, group in known):
            if (trap.name, group) not in told:
                told.add((trap.name, group))
                yield Finding(trap, f"{one.name} (pid {one.pid}): {words}")


def _of(one: Process, tree_is_known: bool) -> Iterator[tuple[Trap, str]]:
    if one.not_watched:
        if not tree_is_known:
            yield TREE, one.not_watched
    elif one.uvicorn and one.children and not one.killasgroup:
        yield HELPERS, f"{one.children} below it, killasgroup=false"
    if one.uvicorn and one.descriptors and one.descriptors[0] > FULL_SHARE * one.descriptors[1]:
        yield NEARLY_FULL, f"{one.descriptors[0]} of {one.descriptors[1]} descriptors are open"


def logs(site: Site) -> Iterator[Finding]:
    sockets = site.running.sockets if site.running else ()
    configuration = site.configuration
    for section in configuration.of_kind("program", "fcgi-program", "eventlistener") if configuration else ():
        for key in ("stdout_logfile", "stderr_logfile"):
            if section.text(key) in sockets:
                yield at(TO_SOCKET, section, key, write=f"{key}=/var/log/{section.title}.log")


CHECKS = (listener, processes, logs)
