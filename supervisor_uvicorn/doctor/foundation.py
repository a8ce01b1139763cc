"""Checks of what the listener stands on: the server, the interfaces, who may use them, and whether it starts at all."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_uvicorn.doctor.configuration import Section
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.site import Site, User, at

_SERVERS = ("unix_http_server", "inet_http_server")
_LOOPBACK = ("127.", "localhost")

REFUSED = Trap(
    "refused",
    "error",
    "supervisord does not start with this file.",
    "It ends with exit code 2 and this message before it starts any process.",
    "; what the message asks for. For %(ENV_X)s: start supervisord, and doctor, with X set",
    "supervisor 4.3.0, options.py ServerOptions.read_config, asked by doctor itself",
)
NO_SERVER = Trap(
    "no-rpc-server",
    "error",
    "There is no RPC server, so nobody can ask supervisord who is there or have a worker replaced.",
    "Without one supervisord gives its children no SUPERVISOR_SERVER_URL; the listener ends with that message, and "
    "supervisorctl cannot connect.",
    "[unix_http_server]\nfile=%(here)s/supervisor.sock\nchmod=0700",
    "supervisor 4.3.0, options.py ServerOptions.realize, process.py _spawn_as_child",
)
NO_INTERFACE = Trap(
    "no-rpcinterface",
    "error",
    "The RPC server has no interface of supervisor, so it knows no method.",
    "Each call is answered with fault 1, UNKNOWN_METHOD: the listener cannot list or replace anything, and "
    "supervisorctl does not work either.",
    "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    "supervisor 4.3.0, xmlrpc.py traverse",
)
OPEN_SOCKET = Trap(
    "rpc-socket-open",
    "error",
    "Every user of this machine may write to supervisord's socket.",
    "Whoever may write to it can stop and start everything, as supervisord's user: an application that was broken "
    "into, too.",
    "chmod=0700                    ; for a listener with another user=: 0770, and chown=USER:GROUP",
    "supervisor 4.3.0, options.py server_configs_from_parser; unix(7)",
)
OPEN_PORT = Trap(
    "rpc-port-open",
    "error",
    "Whoever can reach this port can stop and start everything: it has no password and is not on the loopback.",
    "supervisord's RPC starts, stops and signals processes and reads its logs; ports like this one are scanned for.",
    "port=127.0.0.1:9001           ; or username= and password=, and a firewall",
    "supervisor 4.3.0, http.py make_http_servers (CVE-2017-11610 was met through such ports)",
)
UNREACHABLE = Trap(
    "rpc-socket-closed-to-listener",
    "error",
    "The listener's user may not write to supervisord's socket.",
    "The listener ends with EACCES on its first call, again and again, and nobody watches.",
    "chmod=0770\nchown=root:GROUP              ; in [unix_http_server], with a group that the listener's user is in",
    "supervisor 4.3.0, options.py server_configs_from_parser (default 0700); unix(7)",
)
NO_CREDENTIALS = Trap(
    "listener-without-password",
    "error",
    "The server wants a user name and password, and the listener has none.",
    "supervisord never gives its own to its children: each call of the listener is answered with HTTP 401.",
    'environment=SUPERVISOR_USERNAME="USERNAME",SUPERVISOR_PASSWORD="PASSWORD"',
    "supervisor 4.3.0, process.py _spawn_as_child (it sets the URL alone)",
)
PLUGIN_MISSING = Trap(
    "plugin-not-importable",
    "error",
    "The Python of supervisord (for a ctlplugin: of supervisorctl) cannot import this.",
    "For an rpcinterface supervisord refuses to start, exit code 2; a ctlplugin breaks every command of supervisorctl, "
    "with exit code 2. supervisor 4.3.0 does not say which import failed.",
    "; install the package for that Python, or take the section out",
    "supervisor 4.3.0, options.py Options.get_plugins",
)
DAEMON = Trap(
    "daemon-in-container",
    "error",
    "supervisord goes into the background, and a container ends when its first process does.",
    "The process that the container was started with forks and ends at once: everything in the container is killed.",
    "nodaemon=true",
    "supervisor 4.3.0, options.py ServerOptions._daemonize; pid_namespaces(7)",
)

TRAPS = (
    REFUSED,
    NO_SERVER,
    NO_INTERFACE,
    OPEN_SOCKET,
    OPEN_PORT,
    UNREACHABLE,
    NO_CREDENTIALS,
    PLUGIN_MISSING,
    DAEMON,
)


def refused(site: Site) -> Iterator[Finding]:
    """supervisord's own word; what has a finding of its own (``redirect_stderr``) says more than it."""
    configuration = site.configuration
    if configuration and configuration.refusal and "redirect_stderr=true" not in configuration.refusal:
        yield Finding(REFUSED, configuration.refusal, configuration.file)


def no_server(site: Site) -> Iterator[Finding]:
    configuration = site.configuration
    if configuration and not any(configuration.of_kind(*_SERVERS)):
        yield Finding(NO_SERVER, "no [unix_http_server] and no [inet_http_server]", configuration.file)


def no_interface(site: Site) -> Iterator[Finding]:
    configuration, running = site.configuration, site.running
    whole = configuration is not None and not configuration.partial
    if configuration and whole and configuration.section("rpcinterface:supervisor") is None:
        yield Finding(NO_INTERFACE, "no [rpcinterface:supervisor]", configuration.file)
    elif running and running.no_interface:
        yield Finding(NO_INTERFACE, f"{running.url}: {running.no_interface}")


def open_socket(site: Site) -> Iterator[Finding]:
    for section in site.configuration.of_kind("unix_http_server") if site.configuration else ():
        if section.octal("chmod", 0o700) & 0o002 and not section.has("username"):
            yield at(OPEN_SOCKET, section, "chmod")


def open_port(site: Site) -> Iterator[Finding]:
    for section in site.configuration.of_kind("inet_http_server") if site.configuration else ():
        host, colon, _ = section.text("port").rpartition(":")
        if section.has("username") or (colon and host.startswith(_LOOPBACK)):
            continue
        yield at(
            OPEN_PORT, section, "port", detail="" if colon and host not in ("*", "") else "It is on every address."
        )


def unreachable(site: Site) -> Iterator[Finding]:
    """The socket's owner, group and mode against the listener's user; the directories above are not looked at."""
    configuration, users = site.configuration, site.machine.users
    server = next(configuration.of_kind("unix_http_server"), None) if configuration else None
    if configuration is None or server is None:
        return
    daemon = user_of(site, configuration.supervisord)
    for listener in configuration.listeners:
        user = users.get(listener.text("user")) if listener.has("user") else None
        if user is None or user.uid == 0 or daemon is None:
            continue
        owner_name, _, group_name = server.text("chown").partition(":")
        owner = users.get(owner_name, daemon) if owner_name else daemon
        gid = site.machine.groups.get(group_name, owner.gids[0]) if group_name else owner.gids[0]
        mode = server.octal("chmod", 0o700)
        bit = 0o200 if owner.uid == user.uid else 0o020 if gid in user.gids else 0o002
        if not mode & bit:
            key = "chmod" if server.has("chmod") else "chown"
            yield at(UNREACHABLE, server, key, detail=f"[{listener.name}] has user={listener.text('user')}.")


def user_of(site: Site, section: Section) -> User | None:
    """The user of ``section``: its ``user=``, else supervisord's, else whoever asks. None: not on this machine."""
    configuration, machine = site.configuration, site.machine
    name = section.text("user") or (configuration.supervisord.text("user") if configuration else "")
    if name:
        return machine.users.get(name)
    if site.running and site.running.here:
        return machine.users.get("")  # supervisord's own, as it runs
    return User(0, (0,)) if machine.own_uid == 0 else machine.users.get("")


def no_credentials(site: Site) -> Iterator[Finding]:
    """Children are pointed to the first unix server, else to the last inet one (options.py ``realize``)."""
    configuration = site.configuration
    if configuration is None:
        return
    unix, inet = list(configuration.of_kind("unix_http_server")), list(configuration.of_kind("inet_http_server"))
    server = unix[0] if unix else inet[-1] if inet else None
    if server is None or not server.has("username"):
        return
    for listener in configuration.listeners:
        known = {**configuration.environ, **configuration.supervisord.environment(), **listener.environment()}
        if "SUPERVISOR_USERNAME" not in known:
            yield at(NO_CREDENTIALS, listener, "environment", detail=f"[{server.name}] has username=.")


def plugin_missing(site: Site) -> Iterator[Finding]:
    for name, why in site.machine.not_importable.items():
        section = site.configuration.section(name) if site.configuration else None
        if section is not None:
            key = next((key for key in section.values if key.endswith("_factory")), "")
            yield at(PLUGIN_MISSING, section, key, detail=why)


def daemon_in_container(site: Site) -> Iterator[Finding]:
    if site.configuration is None or not site.machine.container:
        return
    section = site.configuration.supervisord
    if section.has("nodaemon") and not section.true("nodaemon") and not (site.running and site.running.foreground):
        yield at(DAEMON, section, "nodaemon")


CHECKS = (
    refused,
    no_server,
    no_interface,
    open_socket,
    open_port,
    unreachable,
    no_credentials,
    plugin_missing,
    daemon_in_container,
)
