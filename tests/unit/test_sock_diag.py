"""The kernel's socket table, asked about sockets of our own: the answers are known beforehand."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor_uvicorn.kernel import sock_diag
from supervisor_uvicorn.kernel.errors import Exhausted, KernelError, Unavailable
from supervisor_uvicorn.kernel.sock_diag import SockDiag


@dataclass
class Listener:
    family: int
    listening: socket.socket
    stack: ExitStack

    def connect(self) -> socket.socket:
        ours = self.stack.enter_context(socket.socket(self.family))
        ours.connect(self.listening.getsockname())
        return ours

    def accept(self) -> socket.socket:
        return self.stack.enter_context(self.listening.accept()[0])


@pytest.fixture(params=["tcp", "tcp6", "unix", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    family, address = {
        "tcp": (socket.AF_INET, ("127.0.0.1", 0)),
        "tcp6": (socket.AF_INET6, ("::1", 0)),
        "unix": (socket.AF_UNIX, str(tmp_path / "s")),
        "abstract": (socket.AF_UNIX, f"\0supervisor-uvicorn-{os.getpid()}"),
    }[request.param]
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        listening.bind(address)
        listening.listen(7)
        listening.settimeout(5)
        yield Listener(family, listening, stack)


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    diag = SockDiag()
    yield diag
    diag.close()


def test_a_connection_is_followed_from_the_queue_to_its_end(listener: Listener, diag: SockDiag) -> None:
    ours = listener.connect()
    queued = diag.far_end(ours)
    assert queued is not None
    assert queued.inode == 0

    accepted = listener.accept()
    held = diag.far_end(ours)
    assert held is not None
    assert (held.inode, held.unread_bytes, held.established) == (os.fstat(accepted.fileno()).st_ino, 0, True)

    ours.send(b"abc")
    sent = diag.far_end(ours)
    assert sent is not None
    assert sent.unread_bytes >= 3
    if listener.family != socket.AF_UNIX:
        assert sent.unread_bytes == 3

    accepted.recv(100)
    read = diag.far_end(ours)
    assert read is not None
    assert read.unread_bytes == 0

    accepted.close()
    gone = diag.far_end(ours)
    assert gone is None or not gone.established


def test_the_listener_is_not_taken_for_the_far_end(diag: SockDiag) -> None:
    """An exact look-up that matches no connection finds the LISTENER of that port (inet_hashtables.h, inet_lookup)."""
    with socket.socket() as listening, socket.socket() as ours:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours.connect(listening.getsockname())
        accepted, _ = listening.accept()
        # A reset takes the far end away at once, and our end with it: only the listener is left.
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        here = ours.getsockname(), ours.getpeername()
        accepted.close()

        class Pretended:
            family = socket.AF_INET

            def getsockname(self) -> object:
                return here[0]

            def getpeername(self) -> object:
                return here[1]

        assert diag.tcp_far_end(Pretended()) is None  # type: ignore[arg-type]


def test_ipv4_connection_to_a_dual_stack_listener(diag: SockDiag) -> None:
    with socket.socket(socket.AF_INET6) as listening, socket.socket() as ours:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", 0))
        listening.listen()
        ours.connect(("127.0.0.1", listening.getsockname()[1]))
        accepted, _ = listening.accept()
        with accepted:
            far_end = diag.far_end(ours)
            assert far_end is not None
            assert far_end.inode == os.fstat(accepted.fileno()).st_ino


def test_listening_gives_address_and_queue(listener: Listener, diag: SockDiag) -> None:
    inode = os.fstat(listener.listening.fileno()).st_ino
    before = diag.listening()[inode]
    assert (before.queue_length, before.queue_limit) == (0, 7)
    name = listener.listening.getsockname()
    if listener.family == socket.AF_UNIX:
        expected = name if isinstance(name, str) else os.fsdecode(name)
        assert (before.address.family, before.address.path) == ("unix", expected)
    else:
        assert (before.address.host, before.address.port) == name[:2]
        assert before.address.family == ("tcp" if listener.family == socket.AF_INET else "tcp6")
    listener.connect()
    assert diag.listening()[inode].queue_length == 1
    accepted = listener.accept()
    assert os.fstat(accepted.fileno()).st_ino not in diag.listening(), "only listening sockets"


@pytest.mark.parametrize(("family", "wildcard", "ours"), [(socket.AF_INET, "0.0.0.0", "127.0.0.1"),
                                                          (socket.AF_INET6, "::", "::1")])  # fmt: skip
def test_a_wildcard_is_reached_by_loopback(diag: SockDiag, family: int, wildcard: str, ours: str) -> None:
    with socket.socket(family) as listening:
        listening.bind((wildcard, 0))
        listening.listen()
        address = diag.listening()[os.fstat(listening.fileno()).st_ino].address
        assert (address.host, address.port) == (ours, listening.getsockname()[1])


def test_a_large_dump_is_whole(diag: SockDiag) -> None:
    """More listeners than one datagram of 32 KiB holds."""
    with ExitStack() as stack:
        inodes = set()
        for _ in range(400):
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            inodes.add(os.fstat(listening.fileno()).st_ino)
        assert inodes <= set(diag.listening())


def test_an_error_reopens_the_netlink_socket(diag: SockDiag) -> None:
    with socket.socket() as listening, socket.socket() as ours:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours.connect(listening.getsockname())
        assert diag.far_end(ours) is not None
        assert diag._netlink is not None
        os.close(diag._netlink.detach())  # a fault of ours: the descriptor is gone
        with pytest.raises(KernelError):
            diag.far_end(ours)
        assert diag.far_end(ours) is not None


@pytest.mark.parametrize(("number", "kind"), [(24, Exhausted), (97, Unavailable)])
def test_no_netlink_socket_is_named(diag: SockDiag, monkeypatch: pytest.MonkeyPatch, number: int, kind: type) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sock_diag.socket, "socket", fail)
    with pytest.raises(kind):
        diag.listening()


def test_an_answer_that_never_comes_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
    monkeypatch.setattr(sock_diag, "_open", lambda timeout_s: near)
    with far, pytest.raises(KernelError, match=r"within 0\.05 s"):
        SockDiag(timeout_s=0.05).listening()


def test_no_descriptor_is_left(listener: Listener) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        diag = SockDiag()
        diag.listening()
        diag.close()
        diag.close()
    assert len(os.listdir("/proc/self/fd")) == before
