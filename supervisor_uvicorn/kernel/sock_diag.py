"""The kernel's own table of sockets, through netlink ``sock_diag`` (sock_diag(7)).

Which process holds the far end of a connection of ours, and has it read what we sent? No other interface tells:
``/proc/net/tcp`` lists every socket of the host (5 ms with 1,800 of them), one exact question here takes 20-80 us and
needs no right. Layouts: Linux ``include/uapi/linux/{netlink,sock_diag,inet_diag,unix_diag}.h``, unchanged since 3.3.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor_uvicorn.kernel.errors import KernelError, Unavailable, from_os
from supervisor_uvicorn.model import Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_ESTABLISHED, _TCP_CLOSE_WAIT, _TCP_LISTEN = 1, 8, 10
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
_UDIAG_SHOW_NAME, _UDIAG_SHOW_PEER, _UDIAG_SHOW_RQLEN = 0x1, 0x4, 0x10
_UNIX_DIAG_NAME, _UNIX_DIAG_PEER, _UNIX_DIAG_RQLEN, _UNIX_DIAG_SHUTDOWN = 0, 2, 4, 6

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_INET_REQ = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states; then inet_diag_sockid
_PORTS = struct.Struct("!HH")  # inet_diag_sockid: source and destination port, network order
_INET_TAIL = struct.Struct("=IIIII")  # inet_diag_msg behind the sockid: expires, rqueue, wqueue, uid, inode
_UNIX_REQ = struct.Struct("=BBxxIII8s")  # family, protocol, states, inode, show, cookie
_UNIX_MSG = struct.Struct("=BBBxI8s")  # family, type, state, inode, cookie
_NLATTR = struct.Struct("=HH")  # length, type

_DUMP_BYTES = 256 * 1024  # a dump comes in datagrams of at most 32 KiB; one that is cut would be lost
_EXACT_BYTES = 8 * 1024  # one message of some 120 bytes; a larger buffer would be mapped and unmapped for each question
_TIMEOUT_S = 1.0  # the answer to an exact question is there when send() returns; this only bounds a kernel fault


@dataclass(frozen=True)
class FarEnd:
    """The other process' end of a connection of ours.

    ``inode`` is 0 while nobody has accepted it. ``unread_bytes`` is exact for TCP; for a unix socket it is the memory
    that the unread bytes take (``SIOCOUTQ``), so that only zero or not zero means something.
    """

    inode: int
    unread_bytes: int
    established: bool


@dataclass(frozen=True)
class Listening:
    """A listening socket: how we reach it, how many connections wait in its queue, and how many may."""

    address: Address
    queue_length: int
    queue_limit: int


class SockDiag:
    """A netlink socket, opened when first used and opened anew after an error. Not thread-safe: one for each thread."""

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._netlink: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the netlink socket; the next question opens another. May be called twice."""
        netlink, self._netlink = self._netlink, None
        if netlink is not None:
            netlink.close()

    # -- one connection ------------------------------------------------------------------------------------------

    def far_end(self, connection: socket.socket) -> FarEnd | None:
        """The other end of ``connection``; None: no such socket any more.

        Raises :class:`Unavailable`, :class:`Exhausted` or :class:`KernelError`. A host whose kernel has no
        ``tcp_diag`` or ``unix_diag`` also answers "no such socket": the self test tells the two apart.
        """
        if connection.family == socket.AF_UNIX:
            return self.unix_far_end(connection)
        return self.tcp_far_end(connection)

    def tcp_far_end(self, connection: socket.socket) -> FarEnd | None:
        """The server's end of a TCP connection that both ends of which are on this machine, IPv4 or IPv6."""
        question = tcp_question(connection)
        return None if question is None else self.tcp_answer(question)

    def tcp_answer(self, question: bytes) -> FarEnd | None:
        """The same, for a :func:`tcp_question` that is asked again and again."""
        message = self._exact(question)
        # Where no connection matches, the kernel's look-up goes on to the LISTENER of that port: its ports differ.
        if message is None or len(message) < 72 or message[4:8] != question[8:12]:
            return None
        _, unread_bytes, _, _, inode = _INET_TAIL.unpack_from(message, 52)
        return FarEnd(inode, unread_bytes, message[1] in (_TCP_ESTABLISHED, _TCP_CLOSE_WAIT))

    def unix_far_end(self, connection: socket.socket) -> FarEnd | None:
        """The other end of a unix connection. Once closed it looks unaccepted (inode 0), but no longer established."""
        try:
            own_inode = os.fstat(connection.fileno()).st_ino
        except OSError as error:
            raise from_os(error, "own connection") from error
        request = _UNIX_REQ.pack(socket.AF_UNIX, 0, _ALL_STATES, own_inode, _UDIAG_SHOW_PEER, _NO_COOKIE)
        message = self._exact(request)
        if message is None or len(message) < _UNIX_MSG.size:
            return None
        values = dict(_attributes(message, _UNIX_MSG.size))
        peer = values.get(_UNIX_DIAG_PEER)
        if peer is None or len(peer) != 4:
            return None
        # The kernel shuts our end when the other one closes (af_unix.c, unix_release_sock).
        established = not any(values.get(_UNIX_DIAG_SHUTDOWN, b""))
        return FarEnd(int(struct.unpack("=I", peer)[0]), unix_unread_bytes(connection), established)

    # -- all listening sockets -----------------------------------------------------------------------------------

    def listening(self) -> dict[int, Listening]:
        """Every listening stream socket of this network namespace, by inode: TCP over IPv4 and IPv6, and unix.

        A wildcard address is given as the loopback address through which we reach it. Raises like :meth:`far_end`.
        """
        found: dict[int, Listening] = {}
        for family, kind in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
            request = _INET_REQ.pack(family, socket.IPPROTO_TCP, 0, 1 << _TCP_LISTEN) + bytes(40) + _NO_COOKIE
            for message in self._dump(request):
                if len(message) < 72:
                    continue
                port = _PORTS.unpack_from(message, 4)[0]
                host = socket.inet_ntop(family, message[8 : 8 + (4 if family == socket.AF_INET else 16)])
                host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
                _, length, limit, _, inode = _INET_TAIL.unpack_from(message, 52)
                found[inode] = Listening(Address(kind, host=host, port=port), length, limit)
        show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_RQLEN
        request = _UNIX_REQ.pack(socket.AF_UNIX, 0, 1 << _TCP_LISTEN, 0, show, _NO_COOKIE)
        for message in self._dump(request):
            if len(message) < _UNIX_MSG.size:
                continue
            _, kind_of_socket, _, inode, _ = _UNIX_MSG.unpack_from(message)
            values = dict(_attributes(message, _UNIX_MSG.size))
            name = values.get(_UNIX_DIAG_NAME, b"")
            if kind_of_socket != socket.SOCK_STREAM or not name:
                continue
            # A path ends at its first NUL; an abstract name begins with one (unix(7)).
            path = os.fsdecode(name if name[:1] == b"\0" else name.split(b"\0", 1)[0])
            queue = values.get(_UNIX_DIAG_RQLEN, b"")
            length, limit = struct.unpack("=II", queue if len(queue) == 8 else bytes(8))
            found[inode] = Listening(Address("unix", path=path), length, limit)
        return found

    # -- netlink -------------------------------------------------------------------------------------------------

    def _exact(self, request: bytes) -> bytes | None:
        """The one message that answers an exact question; None where the kernel says ENOENT."""
        for kind, payload in self._ask(request, 0):
            if kind == _SOCK_DIAG_BY_FAMILY:
                return payload
            if kind == _NLMSG_ERROR:
                return None
        return None

    def _dump(self, request: bytes) -> list[bytes]:
        return [payload for kind, payload in self._ask(request, _NLM_F_DUMP) if kind == _SOCK_DIAG_BY_FAMILY]

    def _ask(self, request: bytes, flags: int) -> list[tuple[int, bytes]]:
        try:
            return self._converse(request, flags)
        except (struct.error, OverflowError) as error:  # a sandbox answers in the kernel's place
            self.close()
            raise KernelError(f"sock_diag: an answer that cannot be understood: {error}") from error
        except OSError as error:
            self.close()  # whatever still comes on it belongs to a question that nobody asks any more
            if isinstance(error, BlockingIOError):
                raise KernelError(f"sock_diag: no answer from the kernel within {self._timeout_s:g} s") from error
            raise from_os(error, "sock_diag") from error
        except KernelError:
            self.close()
            raise

    def _converse(self, request: bytes, flags: int) -> list[tuple[int, bytes]]:
        netlink = self._netlink
        if netlink is None:
            netlink = self._netlink = _open(self._timeout_s)
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        header = _NLMSGHDR.pack(
            _NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, self._sequence, 0
        )
        netlink.send(header + request)
        answers: list[tuple[int, bytes]] = []
        while True:
            datagram = netlink.recv(_DUMP_BYTES if flags else _EXACT_BYTES)
            for kind, sequence, payload in _messages(datagram):
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return answers
                if kind == _NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", payload)[0])
                    if code not in (0, errno.ENOENT):
                        raise OSError(code, os.strerror(code))
                    return [*answers, (kind, payload)]
                answers.append((kind, payload))
                if not flags:
                    return answers


def tcp_question(connection: socket.socket) -> bytes | None:
    """How the kernel is asked for the server's end of ``connection``; None: it is not connected (any more)."""
    try:
        ours, theirs = connection.getsockname(), connection.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return None
        raise from_os(error, "own connection") from error
    family = connection.family
    # Source and destination are seen from the socket that is looked for (inet_diag.c, inet_diag_find_one_icsk).
    sockid = _PORTS.pack(theirs[1], ours[1]) + _packed(family, theirs[0]) + _packed(family, ours[0]) + b"\0\0\0\0"
    return _INET_REQ.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + sockid + _NO_COOKIE


def unix_unread_bytes(connection: socket.socket) -> int:
    """Memory in bytes of what the other end of a unix connection has not read (unix(7), ``SIOCOUTQ``); 0: all read.

    Raises :class:`KernelError`.
    """
    held = array.array("i", [0])
    try:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, held)
    except OSError as error:
        raise from_os(error, "SIOCOUTQ") from error
    return held[0]


def _open(timeout_s: float) -> socket.socket:
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        raise Unavailable("sock_diag: this system has no AF_NETLINK")
    netlink = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        # The kernel's own time-out: Python's would poll() before each send and each recv.
        whole_s = int(timeout_s)
        timeval = struct.pack("@ll", whole_s, int((timeout_s - whole_s) * 1e6))
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        netlink.connect((0, 0))  # only the kernel may answer
    except OSError:
        netlink.close()
        raise
    return netlink


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence, payload) of each netlink message in a datagram (netlink(7): each begins at a multiple of 4)."""
    at = 0
    while at + _NLMSGHDR.size <= len(datagram):
        length, kind, _, sequence, _ = _NLMSGHDR.unpack_from(datagram, at)
        if length < _NLMSGHDR.size:
            return
        yield kind, sequence, datagram[at + _NLMSGHDR.size : at + length]
        at += (length + 3) & ~3


def _attributes(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute behind a message's fixed part."""
    while at + _NLATTR.size <= len(message):
        length, kind = _NLATTR.unpack_from(message, at)
        if length < _NLATTR.size:
            return
        yield kind, message[at + _NLATTR.size : at + length]
        at += (length + 3) & ~3
