"""The board, read once by a process that lives for a moment (``healthcheck``): one request, one answer, and closed.

:class:`rpc.Rpc` keeps its connection, and every error of it has words. It stands on ``http.client`` and
``xmlrpc.client``, which bring ``email`` and ``ssl``: 8 MB and 40 ms for a process that asks once every few seconds in
every container. Here a socket and expat do, and whoever meets an error asks again through ``Rpc``, for its words.
"""

from __future__ import annotations

import binascii
import socket
import time
from xml.parsers import expat

from supervisor_uvicorn.supervisord.board import NAMESPACE, Note, note
from supervisor_uvicorn.supervisord.server_url import shown

MAX_ANSWER_BYTES = 8 * 1024 * 1024  # a board has at most 1 MiB, which XML may make longer ("<" is "&lt;")
UNKNOWN_METHOD = "1"  # supervisor 4.3.0 and 4.2.5, xmlrpc.py ``Faults``

_VALUES = ("string", "double", "int", "i4", "boolean")


class Unclear(Exception):  # noqa: N818 - it reads as what it is
    """No answer that could be understood; ``Rpc`` will say why."""


def read_board(server_url: str, username: str = "", password: str = "", deadline_s: float = 2.0) -> Note | None:
    """What ``Board.read`` gives: a note, an empty one where nothing was reported, None where there is no plugin.

    ``deadline_s`` is for everything. Raises ``TimeoutError``, any other ``OSError`` of the connection, and
    :class:`Unclear`.
    """
    server_url = shown(server_url)
    until = time.monotonic() + deadline_s
    with _connect(server_url, until) as sock:
        body = f"<?xml version='1.0'?><methodCall><methodName>{NAMESPACE}.board</methodName></methodCall>"
        head = ["POST /RPC2 HTTP/1.0", "Host: localhost", "Content-Type: text/xml", f"Content-Length: {len(body)}"]
        if username or password:
            token = binascii.b2a_base64(f"{username}:{password}".encode("utf-8", "surrogateescape"), newline=False)
            head.append(f"Authorization: Basic {token.decode()}")
        sock.sendall("\r\n".join([*head, "", body]).encode())
        answer = _all_of(sock, until)
    status, _, rest = answer.partition(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise Unclear(f"{server_url} answered {status[:80]!r}")
    return _note(rest.partition(b"\r\n\r\n")[2])


def _connect(server_url: str, until: float) -> socket.socket:
    """Raises ``OSError``, and :class:`Unclear` for a URL of another kind."""
    scheme, _, where = server_url.partition("://")
    if scheme == "http":
        host, _, port = where.partition("/")[0].rpartition(":")
        if not port.isdecimal():
            raise Unclear(server_url)
        return socket.create_connection((host.strip("[]"), int(port)), _left_s(until))
    if scheme != "unix":
        raise Unclear(server_url)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left_s(until))
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _all_of(sock: socket.socket, until: float) -> bytes:
    """Until the peer closes, which it does after an answer in HTTP/1.0. It gets the time that is left, in all."""
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        sock.settimeout(_left_s(until))
        part = sock.recv(64 * 1024)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > MAX_ANSWER_BYTES:
            raise Unclear("the answer is too long")


def _left_s(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def _note(xml: bytes) -> Note | None:
    """Of ``plugin/memory.py``: a struct of ``text``, ``age_s`` (-1.0: nothing was reported) and ``at``; or a fault."""
    found: dict[str, str] = {}
    key = ""
    words: list[str] = []

    def start(element: str, _: object) -> None:
        words.clear()

    def end(element: str) -> None:
        nonlocal key
        if element == "name":
            key = "".join(words)
        elif element in _VALUES:
            found[key] = "".join(words)
        words.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, words.append
    try:
        parser.Parse(xml, True)
        if found.get("faultCode") == UNKNOWN_METHOD:
            return None
        return note(found["text"], float(found["age_s"]), float(found["at"]))
    except (expat.ExpatError, KeyError, ValueError) as error:
        raise Unclear(f"{type(error).__name__} {error}") from None
