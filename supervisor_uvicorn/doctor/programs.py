"""Checks of the programs that start uvicorn: how supervisord starts, stops and restarts them, and uvicorn's options."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_uvicorn.doctor.configuration import Program
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.masked import written
from supervisor_uvicorn.doctor.site import Site, at, where_option

LEAST_LIMIT_CONCURRENCY = 20  # as probe/target.py: below it no connection is held
DEFAULT_BACKLOG = 2048  # uvicorn 0.30 to 0.54, main.py --backlog
DEFAULT_MINFDS = 1024  # supervisor 4.3.0, options.py
OTHER_DESCRIPTORS = 64  # of a worker beside its clients' connections: logs, modules, a database pool

FCGI_IN_GROUP = Trap(
    "fcgi-in-group",
    "error",
    "An fcgi-program inside a [group:...] silently loses its socket.",
    "supervisor makes a plain process of it: fd 0 is a pipe, uvicorn dies with 'Socket operation on non-socket', and "
    "the program ends FATAL. Its documentation says otherwise.",
    "; take its name out of programs=, or the [group:...] away",
    "supervisor 4.3.0 and 4.2.5, options.py process_groups_from_parser",
)
AUTORESTART_FALSE = Trap(
    "autorestart-false",
    "warning",
    "A worker that ends, or is ended, is not started again by supervisord.",
    "Killed by the kernel for want of memory, it stays EXITED. The listener starts again what it has ended itself, and "
    "nothing else.",
    "autorestart=true",
    "supervisor 4.3.0, process.py Subprocess.transition",
)
MAX_REQUESTS = Trap(
    "max-requests-stays-down",
    "error",
    "A worker that reaches its limit of requests ends with exit code 0, and supervisord then leaves it down for ever.",
    "autorestart=unexpected (the default) takes exit code 0 for a wanted end. One worker after the other stays EXITED; "
    "with the last one supervisord closes the socket (measured with uvicorn 0.54).",
    "autorestart=true",
    "supervisor 4.3.0, process.py Subprocess.transition; uvicorn 0.30 to 0.54, server.py on_tick",
)
STARTSECS_ZERO = Trap(
    "startsecs-zero",
    "warning",
    "With startsecs=0 no start counts as failed.",
    "A worker that dies at once (a broken import) is EXITED and never BACKOFF: it is started again about every second, "
    "without pause and for ever, or stays down; startretries and FATAL do not apply.",
    "startsecs=1",
    "supervisor 4.3.0, process.py Subprocess.finish",
)
NO_GRACEFUL_LIMIT = Trap(
    "no-graceful-limit",
    "warning",
    "uvicorn waits without limit for its last connections, so a stop ends in SIGKILL.",
    "A stream that does not end keeps it until stopwaitsecs (10 s by default) has passed; then every connection is cut "
    "and the lifespan's shutdown does not run. Its own limit must lie below stopwaitsecs.",
    "command=uvicorn --timeout-graceful-shutdown 8 ...",
    "uvicorn 0.54, server.py shutdown; supervisor 4.3.0, process.py Subprocess.stop",
)
GRACEFUL_LIMIT_LATE = Trap(
    "graceful-limit-too-late",
    "warning",
    "uvicorn's own limit for a shutdown is not below stopwaitsecs, so SIGKILL comes first.",
    "At SIGKILL every connection is cut, and the lifespan's shutdown does not run.",
    "stopwaitsecs=12               ; more than --timeout-graceful-shutdown, with time for the lifespan's shutdown",
    "uvicorn 0.54, server.py shutdown; supervisor 4.3.0, process.py Subprocess.stop",
)
STOP_SIGNAL = Trap(
    "stopsignal",
    "warning",
    "uvicorn does not handle this signal: it dies of it at once.",
    "It handles TERM and INT alone. Each stop and each restart cuts every request under way, and the lifespan's "
    "shutdown does not run.",
    "stopsignal=TERM",
    "uvicorn 0.54, server.py HANDLED_SIGNALS",
)
TCP_DELAY = Trap(
    "tcp-44ms",
    "warning",
    "Each request on a kept-alive TCP connection takes 44 ms longer.",
    "uvicorn opens fd 0 as a unix socket and so does not set TCP_NODELAY. Keep-alive request, median: 44.00 ms with "
    "--fd 0, 0.04 to 0.10 ms with the option set.",
    "[rpcinterface:uvicorn]\n"
    "supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface\n"
    "; or command=supervisor-uvicorn serve --fd 0 ..., or a unix socket",
    "uvicorn 0.54, server.py startup; our measurements on supervisor 4.3.0",
)
BACKLOG = Trap(
    "socket-backlog-ignored",
    "advice",
    "socket_backlog= has no effect: uvicorn sets the backlog of the same socket anew.",
    "uvicorn calls listen() with its own --backlog (2048): with socket_backlog=77 the kernel showed 2048.",
    "command=uvicorn --backlog N ...",
    "uvicorn 0.54, config.py backlog; supervisor 4.3.0, socket_manager.py",
)
LIMIT_CONCURRENCY = Trap(
    "limit-concurrency-small",
    "advice",
    "With so small a limit the listener holds no connection to the worker, and watches its ticks alone.",
    "A held connection counts in --limit-concurrency (with 2, one made 20 of 20 requests a 503), so below 20 there is "
    "none: no HTTP probe, and a loop that still wakes but serves nothing is not seen.",
    "command=uvicorn --limit-concurrency 20 ...",
    "uvicorn 0.54, protocols/http/h11_impl.py; our probe/target.py",
)
ONE_WORKER = Trap(
    "one-worker-tcp",
    "advice",
    "One worker alone holds this TCP socket, and nothing keeps the socket open while it is replaced.",
    "supervisord closes the socket with the last process: 5 of 195 requests were reset. If a process that the worker "
    "has forked still holds it, supervisord cannot bind it anew and ends with exit code 1; the listener then does not "
    "replace the worker.",
    "numprocs=2\n"
    "process_name=%(program_name)s-%(process_num)d\n"
    "; or, with one worker: [rpcinterface:uvicorn], which keeps the socket open\n"
    "; supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface",
    "supervisor 4.3.0 and 4.2.5, socket_manager.py; our measurements",
)
NO_FAULTHANDLER = Trap(
    "faulthandler-off",
    "advice",
    "A worker that hangs will not say where.",
    "With Python's faulthandler the listener's ABRT leaves the blocked line of code in the worker's stderr log (new "
    "pid after 0.11 s). Without it there is SIGKILL, and nothing is left.",
    'environment=PYTHONFAULTHANDLER="1"',
    "Python docs, faulthandler; our measurements",
)
FEW_DESCRIPTORS = Trap(
    "minfds-low",
    "advice",
    "uvicorn may accept more connections than it may have descriptors.",
    "Each connection is one. At the limit accept() fails with EMFILE and clients wait, although --limit-concurrency "
    "would have answered them with 503.",
    "minfds=65536                  ; in [supervisord]; it raises the soft limit for its children, too",
    "supervisor 4.3.0, options.py ServerOptions.set_rlimits_or_exit",
)
SOCKET_MODE = Trap(
    "socket-shut-to-proxy",
    "advice",
    "No user but the workers' own can connect to this unix socket.",
    "A reverse proxy that runs as another user gets EACCES and answers 502. root can always connect.",
    "socket_owner=USER:GROUP       ; with the proxy's group\nsocket_mode=0770",
    "supervisor 4.3.0, options.py parse_fcgi_socket (default 0700); unix(7)",
)
TRAPS = (
    FCGI_IN_GROUP,
    AUTORESTART_FALSE,
    MAX_REQUESTS,
    STARTSECS_ZERO,
    NO_GRACEFUL_LIMIT,
    GRACEFUL_LIMIT_LATE,
    STOP_SIGNAL,
    TCP_DELAY,
    BACKLOG,
    LIMIT_CONCURRENCY,
    ONE_WORKER,
    NO_FAULTHANDLER,
    FEW_DESCRIPTORS,
    SOCKET_MODE,
)


def _programs(site: Site) -> tuple[Program, ...]:
    return site.configuration.programs if site.configuration else ()


def fcgi_in_group(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    for program in _programs(site):
        group = configuration.group_of.get(program.name) if configuration else None
        if program.fcgi and group is not None:
            others = [name.strip() for name in group.text("programs").split(",") if name.strip() != program.name]
            write = f"programs={','.join(others)}" if others else f"; take [{group.name}] away"
            yield at(FCGI_IN_GROUP, group, "programs", write=write, detail=f"[{program.section.name}] is one.")


def restarts(site: Site) -> Iterator[Finding]:
    for program in _programs(site):
        section = program.section
        if program.autorestart == "false":
            yield at(AUTORESTART_FALSE, section, "autorestart")
        elif program.autorestart == "unexpected" and program.zero_is_expected and program.number("limit-max-requests"):
            key, words = where_option(program, "limit-max-requests")
            yield at(MAX_REQUESTS, section, key, found=f"{words}, autorestart=unexpected")
        if section.number("startsecs", 1) == 0:
            yield at(STARTSECS_ZERO, section, "startsecs")


def stops(site: Site) -> Iterator[Finding]:
    for program in _programs(site):
        section, limit = program.section, program.number("timeout-graceful-shutdown")
        signal = section.text("stopsignal", "TERM").upper().removeprefix("SIG")
        if signal not in ("TERM", "INT", "15", "2"):
            yield at(STOP_SIGNAL, section, "stopsignal")
        elif limit is None:
            words = f"no --timeout-graceful-shutdown; stopwaitsecs={program.stopwaitsecs}"
            yield at(NO_GRACEFUL_LIMIT, section, "command", found=words, write=_with_limit(program))
        elif limit >= program.stopwaitsecs:
            _, option = where_option(program, "timeout-graceful-shutdown")
            words = f"{option}, stopwaitsecs={program.stopwaitsecs}"
            write = f"stopwaitsecs={limit + 2}"
            yield at(GRACEFUL_LIMIT_LATE, section, "stopwaitsecs", found=words, write=write)


def _with_limit(program: Program) -> str:
    """The command with a limit 2 s below ``stopwaitsecs``, as far as that leaves anything."""
    limit = program.stopwaitsecs - 2
    option = f"--timeout-graceful-shutdown {max(limit, 1)}"
    value = program.section.values.get("command")
    more = "" if limit >= 1 else "\nstopwaitsecs=3"
    front = program.command.words[-len(program.command.args) - 1] if program.command.args else ""
    if value is None or not front or value.written.count(front) != 1 or "\n" in value.written:
        return f"command=uvicorn {option} ..." + more
    return written(value.written.replace(front, f"{front} {option}")) + more


def shared_socket(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    for program in _programs(site):
        section = program.section
        if not program.fcgi or configuration is None:
            continue
        if program.tcp and not configuration.has_board:
            if not program.command.serve and not (site.running and site.running.nodelay.get(program.group)):
                yield at(TCP_DELAY, section, "socket")
            if section.number("numprocs", 1) == 1:
                words = f"numprocs={section.text('numprocs', '1')}, {section.text('socket')}, no [rpcinterface:uvicorn]"
                yield at(ONE_WORKER, section, "numprocs", found=words)
        own = program.number("backlog") or DEFAULT_BACKLOG
        if section.has("socket_backlog") and section.number("socket_backlog", 0) != own:
            words = section.text("socket_backlog")
            yield at(BACKLOG, section, "socket_backlog", write=f"command=uvicorn --backlog {words} ...")
        mode = section.octal("socket_mode", 0o700)
        if section.text("socket").startswith("unix:") and not mode & 0o022:
            words = "" if section.has("socket_mode") else "no socket_mode=, so 0700"
            yield at(SOCKET_MODE, section, "socket_mode", found=words)


def limits(site: Site) -> Iterator[Finding]:
    for program in _programs(site):
        limit = program.number("limit-concurrency")
        if limit is None:
            continue
        key, words = where_option(program, "limit-concurrency")
        if limit < LEAST_LIMIT_CONCURRENCY:
            yield at(LIMIT_CONCURRENCY, program.section, key, found=words)
        fds = site.configuration.supervisord.number("minfds", DEFAULT_MINFDS) if site.configuration else DEFAULT_MINFDS
        allowed = [one.descriptors[1] for one in site.live(program.group) if one.descriptors]
        if limit + OTHER_DESCRIPTORS > (min(allowed) if allowed else fds):
            write = f"minfds={limit + 1024}                  ; in [supervisord]"
            have = f"{min(allowed)} descriptors allowed" if allowed else f"minfds={fds}"
            yield at(FEW_DESCRIPTORS, program.section, key, found=f"{words}, {have}", write=write)


def faulthandler(site: Site) -> Iterator[Finding]:
    """Where the workers run here, the kernel says whether they catch ABRT; it knows more than a file."""
    for program in _programs(site):
        told = [one.catches_abort for one in site.live(program.group) if one.catches_abort is not None]
        named = any(program.environ.get(name) for name in ("PYTHONFAULTHANDLER", "PYTHONDEVMODE"))
        named = named or any(name in ("PYTHONFAULTHANDLER", "PYTHONDEVMODE") for name, _ in program.command.environ)
        if all(told) if told else named or program.command.faulthandler:
            continue
        value = program.section.values.get("environment")
        line = 'PYTHONFAULTHANDLER="1"'
        more = "...," if value and value.written.strip() else ""
        write = f"environment={more}{line}"
        yield at(NO_FAULTHANDLER, program.section, "environment", write=write)


CHECKS = (fcgi_in_group, restarts, stops, shared_socket, limits, faulthandler)
