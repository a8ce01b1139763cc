"""Checks of what the listener may see and do of the workers: users, capabilities, /proc."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.foundation import user_of
from supervisor_uvicorn.doctor.site import Process, Site, at

# Linux include/uapi/linux/capability.h
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_PTRACE, _CAP_SYS_RESOURCE = 6, 7, 19, 24

_TICKS_ALONE = (
    "No connection can be pinned and no HTTP probe is possible; the listener watches the workers' ticks alone, and a "
    "loop that still wakes but serves nothing is not seen."
)

OTHER_USER = Trap(
    "listener-other-user",
    "warning",
    "The listener's user may not read which connections the workers hold.",
    "/proc/PID/fd takes the same user and group, or CAP_SYS_PTRACE. " + _TICKS_ALONE,
    "user=WORKERS' USER            ; or no user= at all, where supervisord is root",
    "ptrace(2), access mode checking; proc(5)",
)
NO_CAPABILITY = Trap(
    "root-without-capabilities",
    "warning",
    "The listener is root here, but may neither look into other users' processes nor do so in their name.",
    "That takes CAP_SYS_PTRACE, or CAP_SETUID and CAP_SETGID. " + _TICKS_ALONE,
    "; docker run --cap-add SYS_PTRACE, or do not drop SETUID and SETGID, or user=WORKERS' USER for the listener",
    "ptrace(2); capabilities(7); setfsuid(2)",
)
HIDEPID = Trap(
    "hidepid",
    "warning",
    "/proc hides other users' processes here (hidepid), the workers' too.",
    "Each worker looks as if it had gone: RUNNING for supervisord, absent in /proc, and so nobody watches it.",
    "; run the listener as the workers' user (user=), or mount /proc without hidepid",
    "proc(5), mount options; /proc/mounts",
)
CORE = Trap(
    "core-limit",
    "advice",
    "A worker may write a core, and the listener may not forbid it.",
    "An ABRT of a worker of 4 GB took 18.1 s and 4.1 GB of disk, against 0.35 s without a core. Where the listener "
    "cannot switch the core off it sends no ABRT, and so there is no traceback of the hung line either.",
    "; ulimit -c 0 before supervisord, or LimitCORE=0 in its unit; or the workers' user for the listener",
    "core(5); prlimit(2); our experiments",
)

TRAPS = (OTHER_USER, NO_CAPABILITY, HIDEPID, CORE)


def configured_users(site: Site) -> Iterator[Finding]:
    """From the file alone; where the processes run, :func:`live_users` knows better."""
    configuration = site.configuration
    if configuration is None or any(one.listener and one.uid is not None for one in _processes(site)):
        return
    for listener in configuration.listeners:
        user = user_of(site, listener)
        if user is None or user.uid == 0:
            continue
        for program in configuration.programs:
            worker = user_of(site, program.section)
            if worker is not None and worker.uid != user.uid:
                theirs = program.section.text("user") or configuration.supervisord.text("user") or f"uid {worker.uid}"
                detail = f"[{program.section.name}] runs as {theirs}."
                trap = HIDEPID if site.machine.hidepid else OTHER_USER
                yield at(trap, listener, "user", write=f"user={theirs}", detail=detail)
                break


def live_users(site: Site) -> Iterator[Finding]:
    for listener in _processes(site):
        if not listener.listener or listener.uid is None or _has(listener, _CAP_SYS_PTRACE):
            continue
        for worker in _processes(site):
            same = (worker.uid, worker.gid) == (listener.uid, listener.gid)
            if not worker.uvicorn or worker.uid is None or same:
                continue
            becomes = listener.uid == 0 and _has(listener, _CAP_SETUID) and _has(listener, _CAP_SETGID)
            if becomes:
                continue
            words = f"{listener.name} is uid {listener.uid} gid {listener.gid}, {worker.name} uid {worker.uid} gid "
            trap = NO_CAPABILITY if listener.uid == 0 else HIDEPID if site.machine.hidepid else OTHER_USER
            yield Finding(trap, f"{words}{worker.gid}")
            break


def core(site: Site) -> Iterator[Finding]:
    for listener in _processes(site):
        if not listener.listener or not listener.uid or _has(listener, _CAP_SYS_RESOURCE):
            continue  # root may empty a core, where it may not set the limit (kernel/proc.py ``empty_core``)
        for worker in _processes(site):
            if worker.uvicorn and worker.core_limit not in (None, 0, 1) and worker.uid != listener.uid:
                limit = "unlimited" if worker.core_limit == -1 else f"{worker.core_limit} bytes"
                yield Finding(
                    CORE, f"{worker.name}: core limit {limit}, uid {worker.uid}; listener: uid {listener.uid}"
                )
                break


def _has(process: Process, capability: int) -> bool:
    return bool(process.capabilities >> capability & 1)


def _processes(site: Site) -> tuple[Process, ...]:
    return site.running.processes if site.running else ()


CHECKS = (configured_users, live_users, core)
