"""Where Prometheus finds the metrics: an HTTP endpoint, a text file for node_exporter, or both. Floor 4.

Whoever comes to the endpoint is a stranger to be bounded: at most :data:`SCRAPES_AT_ONCE` are listened to, each for
:data:`SCRAPE_S` in all, from its first byte to our last, one request a connection. prometheus_client's own server
(0.26, exposition.py ``start_wsgi_server``) starts a thread for each connection and waits for its request for ever.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.server
import os
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from . import __version__
from .report import events
from .report.metrics.figures import Figures
from .settings import ListenSettings, SettingsError
from .settings_outward import Place
from .threads import guarded

PATH = "/metrics"
SCRAPES_AT_ONCE = 4
SCRAPE_S = 5.0
"""Half of Prometheus' own default for a scrape (``scrape_timeout``, 10 s)."""

ACCEPT_AGAIN_S = 1.0
BIND_AGAIN_S = 5.0

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every version of Prometheus reads."""

Tell = Callable[[events.Event], None]
Render = Callable[[], bytes]


class MetricsError(SettingsError):
    """Metrics cannot be given as they are asked for; the message says what was found and what to write instead."""


class Metrics:
    """What is switched on of both, running. All of it is daemon threads."""

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None  # not yet
        self.file: TextFile | None = None
        self._closed = threading.Event()

    def serve(self, place: Place, render: Render, tell: Tell) -> None:
        """The endpoint's thread: bind, sooner or later, and serve."""
        told = False
        while not self._closed.is_set():
            try:
                self.endpoint = Endpoint(place, render, tell)
                break
            except MetricsError as error:
                if not told:
                    tell(events.Error("", f"{error}; tried again each {BIND_AGAIN_S:g} s", reason="metrics"))
                told = True
                self._closed.wait(BIND_AGAIN_S)
        else:
            return
        if told:
            tell(events.Error("", f"the metrics are served at {place} by now", reason="metrics"))
        self.endpoint.run()

    def tick(self) -> None:
        """A TICK has come: have the file written soon. Never waits."""
        if self.file is not None:
            self.file.wanted.set()

    def close(self) -> None:
        """Let the address go; for tests."""
        self._closed.set()
        if self.endpoint is not None:
            self.endpoint.close()


def check(settings: ListenSettings) -> None:
    """Raises :class:`MetricsError` where the extra is missing. An address that cannot be had is no reason not to watch
    workers: it may be had later."""
    if settings.metrics is None and settings.metrics_textfile is None:
        return
    try:
        import prometheus_client.exposition  # noqa: F401
    except ImportError as error:
        raise MetricsError(
            "metrics (--metrics, --metrics-textfile) need prometheus-client, which cannot be imported here "
            f"({error}): pip install 'supervisor-uvicorn[metrics]'"
        ) from error
    if settings.metrics_textfile is not None and (why := _not_replaceable(settings.metrics_textfile)):
        raise MetricsError(
            f"metrics_textfile (--metrics-textfile) {settings.metrics_textfile}: {why}; write the name of a file for "
            "the metrics alone, as /var/lib/prometheus/node-exporter/supervisor_uvicorn.prom"
        )


def start(settings: ListenSettings, figures: Figures, tell: Tell) -> Metrics | None:
    """Start the threads; None where metrics are off, and then prometheus_client is not imported.

    An address that cannot be had is told once, and tried again each :data:`BIND_AGAIN_S`. Raises ``ImportError`` where
    :func:`check` was not asked.
    """
    if settings.metrics is None and settings.metrics_textfile is None:
        return None
    from prometheus_client.exposition import generate_latest, write_to_textfile

    from .report.metrics.collector import Collector

    collector = Collector(figures)
    metrics = Metrics()
    if settings.metrics is not None:
        place, render = settings.metrics, lambda: generate_latest(collector)
        serve = functools.partial(metrics.serve, place, render, tell)
        threading.Thread(target=guarded, args=(serve,), daemon=True, name="metrics").start()
    if settings.metrics_textfile is not None:
        path = settings.metrics_textfile

        def write() -> None:
            if figures.shown:  # one that stands by would write over what the acting one has written
                write_to_textfile(path, collector)

        metrics.file = TextFile(path, write, tell)
        threading.Thread(target=guarded, args=(metrics.file.run,), daemon=True, name="metrics file").start()
    return metrics


# -- the endpoint ------------------------------------------------------------------------------------------------------


class _Timed(socket.socket):
    """A connection whose every operation ends at ``until`` (monotonic): a drip is cut off like silence."""

    until = 0.0

    def _grant(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left_s)

    def recv_into(self, *args: Any) -> int:
        self._grant()
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._grant()  # the time-out of a sendall is a total one (Python 3.5)
        super().sendall(*args)


class Endpoint(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Listens as soon as it is made. Raises :class:`MetricsError` where the address cannot be had."""

    daemon_threads = True
    block_on_close = False  # nobody waits for a scraper, and no list of threads is kept
    request_queue_size = 16
    allow_reuse_port = False  # a second listener at the same address is to be refused, and not to get half the scrapes

    def __init__(self, place: Place, render: Render, tell: Tell) -> None:
        self._render = render
        self._rendering = threading.Lock()  # one text at a time, whoever asks
        self._tell = tell
        self._failed = False
        self._closing = False
        self._closed = threading.Event()
        self._free = threading.Semaphore(SCRAPES_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        try:
            super().__init__((place.host, place.port), Handler)
        except (OSError, UnicodeError) as error:  # the latter: a host that no name can be
            raise MetricsError(_why_not_bound(place, error)) from error

    def server_bind(self) -> None:
        """Without the parent's look-up of our own name, which can wait for a name server."""
        socketserver.TCPServer.server_bind(self)

    def run(self) -> None:
        """The thread that accepts. ``serve_forever`` would wake twice a second for nothing."""
        while not self._closing:
            self.handle_request()
        self.server_close()
        self._closed.set()

    def close(self) -> None:
        """Have :meth:`run` let the address go, and wait for that."""
        self._closing = True
        with contextlib.suppress(OSError), socket.create_connection(self.socket.getsockname()[:2], SCRAPE_S):
            self._closed.wait(SCRAPE_S)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; with patience where there is no descriptor left, because the parent would ask again at once."""
        try:
            plain, address = self.socket.accept()
        except OSError:
            time.sleep(ACCEPT_AGAIN_S)
            raise
        return _Timed(fileno=plain.detach()), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand it to a thread as soon as there are not too many. The others wait in the kernel, which bounds them."""
        self._free.acquire()
        try:
            request.until = time.monotonic() + SCRAPE_S
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()  # "can't start new thread"
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that leaves is no error of ours, and what is one was told by :meth:`text`."""

    def text(self) -> bytes | None:
        """The metrics; None where they cannot be given, which is told once a series."""
        try:
            with self._rendering:
                text = self._render()
        except Exception as error:  # noqa: BLE001 - a scrape never ends the listener
            if not self._failed:
                self._tell(events.Error("", f"the metrics cannot be given: {error!r}", reason="metrics"))
            self._failed = True
            return None
        self._failed = False
        return text


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: GET or HEAD of ``/metrics``."""

    server: Endpoint
    server_version = f"supervisor-uvicorn/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        """The metrics, or 404."""
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"Not found. The metrics are at {PATH}\n".encode(), "text/plain")
            return
        text = self.server.text()
        if text is None:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"See the listener's log.\n", "text/plain")
        else:
            self._answer(HTTPStatus.OK, text, CONTENT_TYPE)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a line a scrape would bury the others."""


def _why_not_bound(place: Place, error: Exception) -> str:
    begin = f"metrics (--metrics) {place}: "
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return (
            f"{begin}another process listens there already (EADDRINUSE). Write another port, as "
            f"--metrics {Place(place.host, place.port % 65535 + 1)}; every listener of a host needs its own"
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"{begin}this user may not listen there ({os.strerror(number)}). Write a port from 1024 up"
    if number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | UnicodeError):
        return f"{begin}this machine has no such address. Write one of its own, as 127.0.0.1:{place.port}"
    return f"{begin}{error}. Write an address of this machine, as 127.0.0.1:{place.port}"


# -- the text file -----------------------------------------------------------------------------------------------------


class TextFile:
    """Written whenever ``wanted`` is set, whole or not at all (written beside it, then renamed)."""

    def __init__(self, path: str, write: Callable[[], None], tell: Tell) -> None:
        self.wanted = threading.Event()
        self._path = path
        self._write = write
        self._tell = tell
        self._failed = False

    def run(self) -> None:
        """The thread."""
        while True:
            self.wanted.wait()
            self.wanted.clear()
            self.write()

    def write(self) -> None:
        """Once; what goes wrong is told once a series, and what was there before stays."""
        try:
            if why := _not_replaceable(self._path):
                raise OSError(why)
            self._write()
        except Exception as error:  # noqa: BLE001 - a full disk never ends the listener
            if not self._failed:
                what = f"{self._path} cannot be written: {_reason(error)}; tried again at each TICK"
                self._tell(events.Error("", what, reason="metrics"))
            self._failed = True
        else:
            self._failed = False


def _not_replaceable(path: str) -> str:
    """Why the file may not be replaced, as it is each time: a device of this name would be lost for the whole host."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return ""  # it is not there yet, or writing it will say why not
    return "" if stat.S_ISREG(mode) else "it is there already, and is no regular file"


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return repr(error)
    return os.strerror(error.errno) if error.errno else str(error)
