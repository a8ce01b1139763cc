"""Get a connection that one known worker has accepted.

All workers of a program accept from one socket, so a connection goes to whichever wakes first. Three things make that
bearable: each worker that is pinned already is given a pulse just before the connect, so that it is busy for some 20 us
and another one wins; between two connects there is time to fall asleep, or the last winner, still awake, wins again;
and a connection that went to the wrong process is closed at once. Connects until 4 workers were pinned, beside other
work on 2 cores, median and most of 10: 5 and 7 over TCP, 5 and 18 over a unix socket; without the gap 9 and 43, 14
and 127; without the pulse 22 and 136, 12 and 24.

Among many workers the pulse is of no use: before the last has it, the first has read it and sleeps again. And one
connection at a time is not enough: the kernel wakes all of them for it, it seems in the same order each time, for the
same few win. So eight are made in one go, where the accept queue has room for them, and each is used: those behind the
first find the workers awake already, and go to others. Until all were pinned on 2 cores that did nothing else, single
ones and such volleys: 16 uvicorns after 212 and 371 connects, 112 and 184; 64 small servers 63 after 1565, all after
1112 and 3272; 64 uvicorns (volleys alone) 520 and 616; 256 small servers 71 after 2187, all after 3864. Volleys of four
took fewer connects where there are 16, and more time where there are 64; waiting between the connections of a volley
made it worse. ``start`` in ``benchmarks.cost`` is the time that it takes a listener.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Gone, KernelError, from_os
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, WorkerId
from supervisor_uvicorn.probe.link import HelloLink, Link, PlainSocket, TlsLink, endpoint, open_socket
from supervisor_uvicorn.probe.pin import Pin
from supervisor_uvicorn.probe.target import Target

_ACCEPT_WAIT_S = 0.020  # a saturated worker reads after 10-20 ms; a connection left behind is looked at again
_GAP_S, _GAP_AMONG_MANY_S = 0.008, 0.016
_VOLLEY = 8  # connections in one go where no pulse goes before them; one worker may take them all
_OF_FREE_PLACES = 8  # at most one of so many in the accept queue is taken by a volley: they are the clients' places
_FIRST_SLEEP_S, _SLEEP_GROWTH = 0.0002, 1.5
_CONNECTING = frozenset({0, errno.EINPROGRESS})


MOST_KEPT_BUSY = 8
"""Where more workers share a socket, no pulse is sent before a connect."""


@dataclass(frozen=True)
class Queued:
    """Our one connection that waits, unaccepted, at an address."""

    connection: PlainSocket
    since: float


@dataclass
class Gain:
    """What one attempt at one address has brought. ``trouble``: why these workers cannot be pinned."""

    pins: list[Pin] = field(default_factory=list)
    trouble: dict[WorkerId, KernelError] = field(default_factory=dict)
    connects: int = 0


class Acquirer:
    """Holds the queued connections, at most one for each address. Not thread-safe."""

    def __init__(self, diag: SockDiag, clock: Callable[[], float]) -> None:
        self._diag = diag
        self._clock = clock
        self.queued: dict[Address, Queued] = {}

    def acquire(
        self,
        address: Address,
        unpinned: Sequence[Target],
        most_connects: int,
        until: float,
        keep_busy: Callable[[Sequence[Pin]], None] | None,
    ) -> Gain:
        """Pin what of ``unpinned`` can be pinned with so many connects before ``until`` (seconds, the clock's).

        ``keep_busy`` sends a pulse to the pinned workers of this address; it is given those that were pinned just now.
        None: there are too many of them.
        Never raises. Takes at most one wait of 20 ms longer than ``until``, but for reading the descriptors of workers
        that have thousands of them.
        """
        gain = Gain()
        missing = list(unpinned)
        try:
            if not self._settle_queued(address, missing, gain):
                return gain
            volley_size = min([1 if keep_busy is not None else _VOLLEY, *(one.most_in_one_go for one in unpinned)])
            while missing and gain.connects < most_connects and self._clock() < until:
                if gain.connects:
                    time.sleep(_GAP_S if keep_busy is not None else _GAP_AMONG_MANY_S)
                try:
                    size = min(self._places(address, volley_size), most_connects - gain.connects)
                    volley = self._volley(address, size, gain, keep_busy)
                    if not volley or not self._use_all(address, volley, missing, gain, until):
                        break
                except Exhausted:
                    if volley_size == 1:
                        raise
                    volley_size = 1  # with as few descriptors as can be
        except KernelError as error:
            gain.trouble |= {target.worker: error for target in missing}
        return gain

    def forget(self, address: Address) -> None:
        """Close the queued connection of an address, if there is one."""
        queued = self.queued.pop(address, None)
        if queued is not None:
            queued.connection.close()

    # ------------------------------------------------------------------------------------------------------------

    def _settle_queued(self, address: Address, missing: list[Target], gain: Gain) -> bool:
        """Look at the connection left behind; True: new ones may be made."""
        queued = self.queued.get(address)
        if queued is None:
            return True
        inode = self._accepted_as(queued.connection)
        if inode == 0:
            return False
        del self.queued[address]
        self._use(queued.connection, inode, missing, gain)
        return True

    def _places(self, address: Address, wanted: int) -> int:
        """So many of ``wanted`` connections as the accept queue has room for beside the clients'; 1 where we cannot
        tell."""
        if wanted == 1:
            return 1
        try:
            found = [one for one in self._diag.listening().values() if one.address == address]
        except Exhausted:
            raise
        except KernelError:
            return 1
        free = min((one.queue_limit - one.queue_length for one in found), default=0)
        return max(1, min(wanted, free // _OF_FREE_PLACES))

    def _volley(
        self, address: Address, size: int, gain: Gain, keep_busy: Callable[[Sequence[Pin]], None] | None
    ) -> deque[PlainSocket]:
        """Up to ``size`` new connections, oldest first; less where nobody listens or the queue is full."""
        volley: deque[PlainSocket] = deque()
        try:
            for _ in range(size):
                gain.connects += 1
                connection = self._connect(address, lambda: keep_busy(gain.pins) if keep_busy is not None else None)
                if connection is None:
                    break
                volley.append(connection)
        except BaseException:
            _close_all(volley)
            raise
        return volley

    def _use_all(
        self, address: Address, volley: deque[PlainSocket], missing: list[Target], gain: Gain, until: float
    ) -> bool:
        """Use the oldest, and the others before ``until``. At most one is left queued; the others are pins or closed.

        False: one was not accepted, and it is of no use to make more.
        """
        well = True
        try:
            while True:
                well = self._wait_and_use(address, volley.popleft(), missing, gain) and well
                if address in self.queued:  # then those behind it wait as well
                    return False
                if not (volley and missing and self._clock() < until):
                    return well
        finally:
            _close_all(volley)

    def _connect(self, address: Address, just_before: Callable[[], None]) -> PlainSocket | None:
        """None: nobody listens there now, or its queue is full, which say nothing about a worker."""
        try:
            connection = open_socket(address)
        except OSError as error:
            raise from_os(error, f"a socket for {address}") from error
        just_before()
        try:
            outcome = connection.connect_ex(endpoint(address))
        except (OSError, ValueError) as error:  # a path that is too long, for example
            connection.close()
            raise KernelError(f"{address}: {error}") from error
        if outcome in _CONNECTING:
            return connection
        connection.close()
        if outcome not in (errno.EAGAIN, errno.ECONNREFUSED, errno.ENOENT):
            raise from_os(OSError(outcome, errno.errorcode.get(outcome, str(outcome))), str(address))
        return None

    def _wait_and_use(self, address: Address, connection: PlainSocket, missing: list[Target], gain: Gain) -> bool:
        """True: it was accepted by somebody. Otherwise it is queued, or of no use."""
        since = self._clock()
        sleep_s = _FIRST_SLEEP_S
        while True:
            try:
                inode = self._accepted_as(connection)
            except KernelError:
                connection.close()
                raise
            if inode is None:
                connection.close()
                return False
            if inode:
                self._use(connection, inode, missing, gain)
                return True
            if self._clock() - since > _ACCEPT_WAIT_S:
                self.queued[address] = Queued(connection, since)
                return False
            time.sleep(sleep_s)
            sleep_s *= _SLEEP_GROWTH

    def _accepted_as(self, connection: PlainSocket) -> int | None:
        """The inode of the accepted end; 0: not accepted yet; None: closed, refused or reset."""
        try:
            connection.recv(1)
            return None  # ended; or it speaks first, so it does not speak HTTP/1
        except BlockingIOError:
            pass
        except OSError as error:
            # A full TCP queue drops our SYN: still connecting, which is a kind of waiting.
            return 0 if error.errno == errno.ENOTCONN else None
        far_end = self._diag.far_end(connection)
        if far_end is None:
            return 0  # the server's end of TCP is made only when it is taken into the queue
        return far_end.inode if far_end.established or far_end.inode == 0 else None

    def _use(self, connection: PlainSocket, inode: int | None, missing: list[Target], gain: Gain) -> None:
        """Make a pin of it if one of ``missing`` holds it; else close it."""
        if not inode:
            connection.close()
            return
        try:
            found = self._who_holds(inode, missing, gain)
            if found is None:
                connection.close()
                return
            target, fd = found
            gain.pins.append(Pin(target, self._link(target, connection), inode, fd, self._diag, self._clock))
            missing.remove(target)
        except KernelError:
            connection.close()
            raise
        except OSError as error:  # TLS could not be set up
            connection.close()
            raise from_os(error, "a pinned connection") from error

    def _who_holds(self, inode: int, missing: list[Target], gain: Gain) -> tuple[Target, int] | None:
        # The far end's inode is there a moment before its descriptor is (socket.c, accept: fd_install comes last).
        for again in (True, False):
            began = self._clock()
            for target in list(missing):
                try:
                    fd = proc.find_socket(target.worker.pid, inode)
                except Exhausted:
                    raise
                except KernelError as error:
                    if not isinstance(error, Gone):
                        gain.trouble[target.worker] = error
                    missing.remove(target)
                    continue
                if fd is not None:
                    return target, fd
            if again and self._clock() - began < 0.002:
                time.sleep(0.0001)
            else:
                break
        return None

    @staticmethod
    def _link(target: Target, connection: PlainSocket) -> Link:
        if target.options.client_certificate:
            return HelloLink(connection)
        return TlsLink(connection) if target.options.tls else Link(connection)


def _close_all(connections: Iterable[PlainSocket]) -> None:
    for connection in connections:
        connection.close()
