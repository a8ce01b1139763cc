"""All pinned connections: one look at them, and the fine looks in between while something is unread.

Only this class is called from outside. It never raises for what a worker or the machine does: a fault or limit of ours
becomes ``Sight.trouble``, and never evidence.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

from supervisor_uvicorn.kernel.errors import KernelError, Refused, Unavailable
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, Answer, HttpOutcome, WorkerId
from supervisor_uvicorn.probe.acquire import MOST_KEPT_BUSY, Acquirer
from supervisor_uvicorn.probe.link import Link
from supervisor_uvicorn.probe.pin import Phase, Pin
from supervisor_uvicorn.probe.target import Sight, Target

_ACQUIRE_S = 0.2  # of one look, over all addresses
_HANDSHAKE_S = 0.005  # of one look, for the TLS handshakes that it has begun
_TOGETHER_S = 0.0005  # rechecks this close to each other are made in one go: each wake-up costs more than the check
_SHORT_LIFE_S = 5.0
_HANDSHAKES = 2
# One attempt of 24 connects misses an idle worker of four about once in ten times; among 64, the last one took up to
# 2,000 connects, at some 80 a look:
_MOST_FRUITLESS, _FRUITLESS_PER_WORKER = 3, 0.5
# Where an attempt will most likely be in vain, it makes no more than one among four workers does:
_MOST_CONNECTS_IN_VAIN = 24

Submit = Callable[[Callable[[], None]], None]


class Pins:
    """At most one pinned connection for each worker. Not thread-safe; HTTP probes run where ``submit`` puts them.

    ``clock`` is :func:`time.monotonic` or a test's own. ``submit`` runs a job in a thread of the caller's pool; it may
    raise :class:`RuntimeError` where it takes none. ``read_after`` is told of each pulse that was read after how long.
    """

    def __init__(
        self,
        diag: SockDiag,
        clock: Callable[[], float] = time.monotonic,
        submit: Submit | None = None,
        read_after: Callable[[WorkerId, float], None] | None = None,
    ) -> None:
        self._diag = diag
        self._clock = clock
        self._submit = submit
        self._read_after = read_after
        self._acquirer = Acquirer(diag, clock)
        self._pins: dict[WorkerId, Pin] = {}
        self._outcomes: dict[WorkerId, HttpOutcome] = {}
        self._trouble: dict[WorkerId, str] = {}  # of this look
        self._unseen: dict[WorkerId, KernelError] = {}  # of this look: what the kernel did not let us see
        # Attempts one after another that gained nothing, and who was missing then:
        self._fruitless: dict[Address, tuple[int, frozenset[WorkerId]]] = {}
        self._short_lived: set[WorkerId] = set()  # lost soon after they were pinned: tried at TICKs only
        self._closed_after_handshake: dict[WorkerId, int] = {}  # so many times in a row: it wants a certificate of us
        self._unanswered: dict[WorkerId, tuple[Link, float]] = {}  # a request was read there, and is not answered yet
        self.connects = 0  # made so far, for tests and reports

    # -- one look ------------------------------------------------------------------------------------------------

    def look(self, targets: Sequence[Target], *, may_acquire: bool, ask: bool) -> dict[WorkerId, Sight]:
        """One look at every target. ``ask``: it is a TICK's, so probes are sent; ``may_acquire``: pins may be made.

        Let go of what is no target any more, see what was read, acquire what is missing, send the next pulse or
        finish a head. Takes some 50 us for each pinned worker; at most about 0.2 s where pins are missing.
        """
        targets = [self._with_what_we_found_out(target) for target in targets]
        self._trouble.clear()
        self._unseen.clear()
        wanted = [target for target in targets if not target.unpinnable]
        self._let_go_of_others(wanted)
        for pin in list(self._pins.values()):
            self._check(pin, confirm=True)
            if pin.full:
                self.let_go(pin.target.worker)
        self._acquire_missing(wanted, may_acquire=may_acquire, ask=ask)
        for pin in list(self._pins.values()):
            self._send(pin, ask=ask)
        for pin in list(self._pins.values()):  # most have read it by now
            if pin.wants_recheck:
                self._check(pin, confirm=False)
        self._see_unanswered({target.worker for target in wanted}, ask=ask)
        return {target.worker: self._sight(target) for target in targets}

    def recheck(self) -> None:
        """A fine look at the unread pins only, so that lag is measured finely. To be called at ``recheck_at``.

        After an answer the next head is settled here as well, in milliseconds: until then it says nothing of the loop,
        and one that begins to spin before it does could not be pinned anew.
        """
        soon = self._clock() + _TOGETHER_S
        for pin in list(self._pins.values()):
            if pin.wants_recheck and pin.recheck_at <= soon:
                self._check(pin, confirm=False)
                if pin.phase is Phase.SETTLING and not pin.lost:
                    pin.pulse()
                    if pin.lost:
                        self._drop(pin)

    @property
    def recheck_at(self) -> float | None:
        """When :meth:`recheck` has something to see; None: everything was read."""
        return min((pin.recheck_at for pin in self._pins.values() if pin.wants_recheck), default=None)

    def is_unread(self, worker: WorkerId | None) -> bool:
        """As far as the last look or recheck has seen."""
        pin = self._pins.get(worker) if worker is not None else None
        return pin is not None and pin.late_since is not None

    def let_go(self, worker: WorkerId) -> None:
        """Close the connection to that worker, if there is one: it is stopping, or we have signalled it."""
        pin = self._pins.pop(worker, None)
        if pin is not None:
            pin.close()
        self._outcomes.pop(worker, None)

    def close(self) -> None:
        """Close every connection. A probe that is under way ends by itself."""
        for worker in list(self._pins):
            self.let_go(worker)
        self._see_unanswered(set(), ask=False)
        for address in list(self._acquirer.queued):
            self._acquirer.forget(address)

    # ------------------------------------------------------------------------------------------------------------

    def _with_what_we_found_out(self, target: Target) -> Target:
        known = target.options.client_certificate or not target.options.tls
        if known or self._closed_after_handshake.get(target.worker, 0) < _HANDSHAKES:
            return target
        return dataclasses.replace(target, options=dataclasses.replace(target.options, client_certificate=True))

    def _let_go_of_others(self, wanted: Sequence[Target]) -> None:
        by_worker = {target.worker: target for target in wanted}
        for worker, pin in list(self._pins.items()):
            target = by_worker.get(worker)
            if target is None or (target.address, target.head_start) != (pin.target.address, pin.target.head_start):
                self.let_go(worker)
            else:
                pin.target = target
        missing = {target.address for target in wanted if target.worker not in self._pins}
        for address in [address for address in self._acquirer.queued if address not in missing]:
            self._acquirer.forget(address)
        known = {target.worker for target in wanted}
        self._short_lived &= known
        for worker in self._closed_after_handshake.keys() - known:
            del self._closed_after_handshake[worker]
        self._fruitless = {address: tries for address, tries in self._fruitless.items() if address in missing}

    def _check(self, pin: Pin, *, confirm: bool) -> None:
        worker = pin.target.worker
        outcome = pin.asked()
        if outcome is not None:
            self._outcomes[worker] = outcome
        try:
            pin.check(confirm=confirm)
        except KernelError as error:
            self._unseen[worker] = error
        lag_s, pin.read_after_s = pin.read_after_s, None
        if lag_s is not None and self._read_after is not None:
            self._read_after(worker, lag_s)
        if pin.lost:
            self._drop(pin)

    def _see_unanswered(self, wanted: set[WorkerId], *, ask: bool) -> None:
        """A worker that has taken no connection since a request of ours, hung in its very handler perhaps: the answer
        that does not come is one wrong answer more at each TICK, until it comes, or the worker is pinned again."""
        for worker, (link, since) in list(self._unanswered.items()):
            if worker not in wanted or worker in self._pins or link.ended():
                del self._unanswered[worker]
                link.close()
            elif ask and worker not in self._outcomes:
                waited_s = self._clock() - since
                self._outcomes[worker] = HttpOutcome(Answer.WRONG, f"no answer for {waited_s:.0f} s")

    def _drop(self, pin: Pin) -> None:
        worker = pin.target.worker
        if self._pins.get(worker) is pin:
            del self._pins[worker]
        if pin.unanswered_since is not None and worker not in self._unanswered:
            self._unanswered[worker] = pin.link, pin.unanswered_since
        else:
            pin.close()
        if pin.answered or not pin.lost_by_worker or self._clock() - pin.pinned_at >= _SHORT_LIFE_S:
            self._closed_after_handshake.pop(worker, None)
        elif pin.shaken and self._closed_after_handshake.get(worker, 0) < _HANDSHAKES:
            # TLS 1.3 without the client certificate that the worker wants: on our side the handshake succeeds, then
            # the worker closes, and asyncio does not send the alert that would say why.
            self._closed_after_handshake[worker] = self._closed_after_handshake.get(worker, 0) + 1
        else:
            self._short_lived.add(worker)

    def _send(self, pin: Pin, *, ask: bool) -> None:
        request = pin.target.request
        # One that cannot be asked right now, because a pulse is still unread, is asked at the next look.
        pin.is_due = pin.is_due or (ask and pin.phase is Phase.PULSE)
        if pin.is_due and request is not None and self._submit is not None and pin.may_ask:
            try:
                pin.ask(request, self._submit)
                return
            except RuntimeError as error:
                self._trouble[pin.target.worker] = f"no HTTP probe: {error}"
        pin.pulse()
        if pin.lost:
            self._drop(pin)

    def _acquire_missing(self, wanted: Sequence[Target], *, may_acquire: bool, ask: bool) -> None:
        missing: dict[Address, list[Target]] = {}
        for target in wanted:
            if target.worker not in self._pins:
                missing.setdefault(target.address, []).append(target)
        until = self._clock() + _ACQUIRE_S
        new: list[Pin] = []
        for address, unpinned in missing.items():
            workers = sum(target.address == address for target in wanted)
            # A connection that waits is looked at in any case: while it waits it is evidence.
            if may_acquire and self._is_promising(address, unpinned, workers):
                most_connects = 4 * workers + 8
            elif may_acquire and ask:
                most_connects = min(4 * workers + 8, _MOST_CONNECTS_IN_VAIN)
            elif address in self._acquirer.queued:
                most_connects = 0
            else:
                continue
            keep_busy = functools.partial(self._keep_busy, address) if workers <= MOST_KEPT_BUSY else None
            gain = self._acquirer.acquire(address, unpinned, most_connects, until, keep_busy)
            self.connects += gain.connects
            new += gain.pins
            self._unseen |= gain.trouble
            if gain.pins:
                self._fruitless.pop(address, None)
            elif gain.connects:
                tries, _ = self._fruitless.get(address, (0, None))
                self._fruitless[address] = tries + 1, frozenset(target.worker for target in unpinned)
        for pin in new:
            worker = pin.target.worker
            self._pins[worker] = pin
            self._short_lived.discard(worker)
            pin.is_due = pin.target.eager
        self._shake_hands(new)

    def _is_promising(self, address: Address, unpinned: Sequence[Target], workers: int) -> bool:
        """False where the last attempts gained nothing and nobody new is missing: then it is tried at TICKs only."""
        tries, tried = self._fruitless.get(address, (0, frozenset()))
        if tries < max(_MOST_FRUITLESS, _FRUITLESS_PER_WORKER * workers):
            tried = frozenset()
        return any(target.worker not in tried | self._short_lived for target in unpinned)

    def _keep_busy(self, address: Address, new: Sequence[Pin]) -> None:
        """Give the pinned workers of an address something to do, so that another one takes the next connection."""
        pins = [pin for pin in [*self._pins.values(), *new] if pin.target.address == address]
        for pin in pins:
            try:
                pin.check(confirm=False)
            except KernelError as error:
                self._unseen[pin.target.worker] = error
        for pin in pins:  # in one go, right before the connect: a pulse keeps a worker busy for some 20 us only
            pin.pulse()

    def _shake_hands(self, new: Sequence[Pin]) -> None:
        until = self._clock() + _HANDSHAKE_S
        while True:
            for pin in new:
                if not pin.lost:
                    self._check(pin, confirm=False)
            if all(pin.lost or pin.open_for_bytes for pin in new) or self._clock() > until:
                return
            time.sleep(0.0005)

    def _sight(self, target: Target) -> Sight:
        worker = target.worker
        if target.unpinnable:
            return Sight(trouble=target.unpinnable, pinnable=False)
        outcome = self._outcomes.pop(worker, None)
        error = self._unseen.get(worker)
        if error is not None:
            return Sight(http=outcome, trouble=str(error), pinnable=not isinstance(error, (Refused, Unavailable)))
        trouble = self._trouble.get(worker, "")
        pin = self._pins.get(worker)
        if pin is None:
            queued = self._acquirer.queued.get(target.address)
            return Sight(queued_since=queued.since if queued else None, http=outcome, trouble=trouble)
        late_since = pin.late_since
        lag_s = pin.lag_s if late_since is None else self._clock() - late_since
        return Sight(True, late_since, lag_s, None, outcome, trouble)
