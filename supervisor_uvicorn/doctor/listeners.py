"""Checks of the ``[eventlistener:...]`` section that runs us."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_uvicorn.doctor.configuration import Configuration, Section
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.site import Site, at
from supervisor_uvicorn.supervisord.preflight import LISTENER_SECTION

EVENTS = "TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION"
LEAST_BUFFER = 50
_TERMINALS = ("/dev/stderr", "/dev/stdout", "/dev/fd/1", "/dev/fd/2")
EVENTS_PER_PROCESS = 3  # at the start: PROCESS_GROUP_ADDED, STARTING, RUNNING

NO_LISTENER = Trap(
    "no-listener",
    "error",
    "Nobody watches the workers: there is no listener of supervisor-uvicorn.",
    "supervisord restarts what dies and does not notice what hangs. Through the shared socket nobody else does either: "
    "with one worker of four hung, 1,000 of 1,000 checks succeeded.",
    LISTENER_SECTION.rstrip(),
    "our experiments; `supervisor-uvicorn config` prints the section right for this host",
)
TWO_LISTENERS = Trap(
    "two-listeners",
    "warning",
    "More than one listener of supervisor-uvicorn is started.",
    "One acts for each supervisord, and the others only stand by; which settings count is chance. One listener watches "
    "every program.",
    "; keep one section, with numprocs=1; what differs for a program goes to [supervisor-uvicorn:GROUP]",
    "our supervisord/lock.py",
)
NO_TICK = Trap(
    "listener-without-tick",
    "error",
    "The listener gets no TICK, so it never takes a full look and never asks with HTTP.",
    "A TICK starts each full look; TICK_3600 is one an hour.",
    f"events={EVENTS}",
    "supervisor 4.3.0, events.py",
)
FEW_EVENTS = Trap(
    "listener-events",
    "warning",
    "The listener does not get all of the events that it works with.",
    "Without PROCESS_STATE it learns of a new worker on the next TICK only; without REMOTE_COMMUNICATION `restart`, "
    "`pause` and `resume` never reach it.",
    f"events={EVENTS}",
    "supervisor 4.3.0, events.py",
)
STDOUT_LOG = Trap(
    "listener-stdout-logfile",
    "warning",
    "The listener's stdout is the protocol between it and supervisord, and not a log.",
    "READY and RESULT lines, two for each event, fill the container's log.",
    "stdout_logfile=NONE",
    "supervisor 4.3.0, dispatchers.py PEventListenerDispatcher",
)
STDOUT_FILE = Trap(
    "listener-stdout-in-file",
    "advice",
    "The listener's stdout is the protocol between it and supervisord, and a log of it is of no use.",
    "Two lines for each event are written to disk: one every 5 s, with nothing in it.",
    "stdout_logfile=NONE",
    "supervisor 4.3.0, options.py (default AUTO), dispatchers.py PEventListenerDispatcher",
)
REDIRECTED = Trap(
    "listener-redirect-stderr",
    "error",
    "supervisord refuses redirect_stderr=true for a listener and does not start.",
    "stdout is the protocol: one stray byte there, and supervisord sends no event any more.",
    "redirect_stderr=false",
    "supervisor 4.3.0, options.py process_groups_from_parser",
)
STDERR_LOST = Trap(
    "listener-stderr-lost",
    "warning",
    "What the listener does, and why, is lost.",
    "Each restart and its reason stand there, and each error of its own. In a supervisord in the background "
    "/dev/stderr is /dev/null.",
    "; leave stderr_logfile= out: supervisord names a file, see `supervisorctl tail NAME stderr`\n"
    "stderr_logfile=/var/log/uvicorn-health.log",
    "supervisor 4.3.0, options.py ServerOptions._daemonize",
)
ROTATES = Trap(
    "log-cannot-rotate",
    "error",
    "A pipe or a terminal cannot be rotated: after its first line this output is cut off.",
    "supervisord asks how long it is, gets 'Illegal seek', and closes its end of the process' output: what follows is "
    "lost, and the process' next write fails with EPIPE (tried with 4.3.0).",
    "stderr_logfile_maxbytes=0",
    "supervisor 4.3.0, loggers.py RotatingFileHandler.doRollover; docker/docs issue 17298",
)
SMALL_BUFFER = Trap(
    "listener-buffer",
    "advice",
    "At the start more events come than the buffer holds, and supervisord drops the oldest.",
    "Each process brings about three before the listener is RUNNING; the default is 10. Each loss is an ERRO line in "
    "supervisord's log, and a worker that is found on the next TICK only.",
    "buffer_size=100",
    "supervisor 4.3.0, process.py EventListenerPool._acceptEvent",
)
NOT_RESTARTED = Trap(
    "listener-autorestart",
    "warning",
    "A listener that ends with exit code 0 stays ended, and nobody watches any more.",
    "autorestart=unexpected (the default) takes exit code 0 for a wanted end; with false nothing is started again.",
    "autorestart=true",
    "supervisor 4.3.0, process.py Subprocess.transition",
)
SHARED_PRIORITY = Trap(
    "listener-priority",
    "advice",
    "Another listener has the same priority.",
    "supervisord takes processes of equal priority for the same one: an event that either of them refuses is handed to "
    "both again.",
    "priority=-10",
    "supervisor 4.3.0, process.py EventListenerPool.handle_rejected, Subprocess.__eq__",
)

TRAPS = (
    NO_LISTENER,
    TWO_LISTENERS,
    NO_TICK,
    FEW_EVENTS,
    STDOUT_LOG,
    STDOUT_FILE,
    REDIRECTED,
    STDERR_LOST,
    ROTATES,
    SMALL_BUFFER,
    NOT_RESTARTED,
    SHARED_PRIORITY,
)


def how_many(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    if configuration is None:
        return
    ours = configuration.listeners
    runs = any(one.listener for one in site.running.processes) if site.running else False  # as a script, perhaps
    if not ours and configuration.programs and not runs:
        names = ", ".join(f"[{program.section.name}]" for program in configuration.programs)
        words = f"{names}, and no [eventlistener:...] with supervisor-uvicorn listen"
        yield Finding(NO_LISTENER, words, configuration.file)
    for second in ours[1:]:
        yield at(TWO_LISTENERS, second, "command", detail=f"[{ours[0].name}] is one already.")
    for one in ours:
        if one.number("numprocs", 1) > 1:
            yield at(TWO_LISTENERS, one, "numprocs")


def events(site: Site) -> Iterator[Finding]:
    for listener in _listeners(site):
        named = {name.strip().upper() for name in listener.text("events").split(",")}
        if "EVENT" in named:
            continue
        if not named & {"TICK", "TICK_5", "TICK_60"}:
            yield at(NO_TICK, listener, "events")
        lacking = [name for name in ("PROCESS_STATE", "REMOTE_COMMUNICATION") if name not in named]
        if lacking:
            yield at(FEW_EVENTS, listener, "events", detail=f"Not there: {', '.join(lacking)}.")


def outputs(site: Site) -> Iterator[Finding]:
    for listener in _listeners(site):
        stdout = listener.text("stdout_logfile", "AUTO")
        if stdout.startswith("/dev/") and stdout != "/dev/null":
            yield at(STDOUT_LOG, listener, "stdout_logfile")
        elif stdout.upper() != "NONE" and stdout != "/dev/null":
            yield at(STDOUT_FILE, listener, "stdout_logfile")
        if listener.true("redirect_stderr"):
            yield at(REDIRECTED, listener, "redirect_stderr")
        stderr = listener.text("stderr_logfile", "AUTO")
        if stderr in _TERMINALS:
            if _is_daemon(site):
                yield at(STDERR_LOST, listener, "stderr_logfile", detail="supervisord runs as a daemon.")
        elif stderr.upper() == "NONE" or stderr == "/dev/null":
            yield at(STDERR_LOST, listener, "stderr_logfile")


def rotation(site: Site) -> Iterator[Finding]:
    """Of the listener, and of the programs that it watches."""
    programs = tuple(program.section for program in site.configuration.programs) if site.configuration else ()
    for section in (*programs, *_listeners(site)):
        for stream in ("stdout", "stderr"):
            if (stream == "stderr" and section.true("redirect_stderr")) or (
                stream == "stdout" and section not in programs
            ):
                continue  # a listener's stdout does not belong there at all: STDOUT_LOG
            to_terminal = section.text(f"{stream}_logfile") in _TERMINALS
            if to_terminal and section.text(f"{stream}_logfile_maxbytes", "50MB").rstrip("KMGB") != "0":
                key = f"{stream}_logfile_maxbytes"
                words = "" if section.has(key) else f"{stream}_logfile={section.text(f'{stream}_logfile')}, no {key}=0"
                yield at(ROTATES, section, key, found=words, write=f"{key}=0")


def _is_daemon(site: Site) -> bool:
    """Will supervisord be in the background? The running one knows.

    Without one: where the file says so; and where it does not speak of it, and a program does not write to the
    terminal either. (A file whose programs log to /dev/stdout is meant for ``supervisord -n``, as uvicorn's recipe is.)
    """
    if site.running is not None and site.running.foreground is not None:
        return not site.running.foreground
    configuration = site.configuration
    if configuration is None:
        return False
    if configuration.supervisord.has("nodaemon"):
        return not configuration.supervisord.true("nodaemon")
    programs = configuration.of_kind("program", "fcgi-program")
    return not any(
        one.text(key).startswith(("/dev/std", "/dev/fd/"))
        for one in programs
        for key in ("stdout_logfile", "stderr_logfile")
    )


def queue(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    for listener in _listeners(site):
        least = max(LEAST_BUFFER, EVENTS_PER_PROCESS * _processes(configuration) if configuration else 0)
        if listener.number("buffer_size", 10) < least:
            yield at(
                SMALL_BUFFER,
                listener,
                "buffer_size",
                found="" if listener.has("buffer_size") else "no buffer_size=, so 10",
                write=f"buffer_size={max(least, 100)}",
            )


def _processes(configuration: Configuration) -> int:
    return sum(one.number("numprocs", 1) for one in configuration.of_kind("program", "fcgi-program", "eventlistener"))


def life(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    for listener in _listeners(site):
        if not listener.true("autorestart"):
            yield at(NOT_RESTARTED, listener, "autorestart")
        others = [
            one.name
            for one in (configuration.of_kind("eventlistener") if configuration else ())
            if one.name != listener.name
            and one not in _listeners(site)
            and one.number("priority", 999) == listener.number("priority", 999)
        ]
        if others:
            words = "" if listener.has("priority") else "no priority=, so 999"
            yield at(SHARED_PRIORITY, listener, "priority", found=words, detail=f"It is [{others[0]}].")


def _listeners(site: Site) -> tuple[Section, ...]:
    return site.configuration.listeners if site.configuration else ()


CHECKS = (how_many, events, outputs, rotation, queue, life)
