"""The command: ``python3 tests/soak --minutes 60``. JSON at the end, and 1 where anything was wrong or has grown."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.load import Load, connect
from faults.oracle import Done, Facts, whose
from faults.plan import SICK, WORKERS
from faults.trace import Event, Said, Truth, at
from harness import client, interpreter, processes, rolls
from harness.load_client import Failed, Link, request_for
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord
from harness.waiting import wait_for

from soak.flat import Trend, trend

KINDS = ("sleep", "lock", "read", "gil", "spin", "stop")
RECYCLED = ("rolling", "max_rss", "max_age")  # restarts of workers that are well, by what the soak has set up
MIB = 1024**2

BOUNDS = {
    "listener_rss_bytes": 2 * MIB,
    "listener_fds": 2.0,
    "listener_threads": 2.0,
    "supervisord_rss_bytes": 2 * MIB,
    "supervisord_fds": 2.0,
}
"""What each may gain over the whole run after its warm-up: noise of the allocator, and a probe under way."""

REACH_S = 1.0  # below silent_after: the peers are stopped meanwhile
YOUNG_S = 10.0  # at most so old is a worker when it is first pinned
LATE_S = 15.0  # more than its own bound a hang may take while its peers are being replaced


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds; ``leak_bytes`` is what each request leaves behind."""

    sample_s: float
    hang_s: tuple[float, float]
    roll_s: float
    warm_up_s: float
    leak_bytes: int
    max_age: str

    @classmethod
    def of(cls, minutes: float) -> Pace:
        """An hour's pace, or a quick one where there are only some minutes.

        The hour warms up for a third of its time, in which the listener's history becomes full (200 entries,
        report/history.py): two for each restart, and one or two for each roll.
        """
        if minutes >= 10:
            return cls(5.0, (8.0, 20.0), 180.0, minutes * 20.0, 60_000, "150:60")
        return cls(1.0, (4.0, 9.0), 35.0, 15.0, 400_000, "40:20")

    @property
    def program(self) -> Program:
        environment = {"FAULTY_LEAK_BYTES": str(self.leak_bytes)}
        return Program(
            module=SERVE,
            uvicorn="--no-access-log --timeout-keep-alive 120",
            environment=environment,
            extra="autorestart=true",
        )

    @property
    def listen(self) -> str:
        limits = f"--max-rss 150MB --max-age {self.max_age}"
        return f"--silent-after 2 --path /health --backoff 0 --budget 1000/600 {limits}"


class Soak:
    """One run. ``wrong`` says what was wrong so far."""

    def __init__(self, site: Supervisord, load: Load, minutes: float, seed: int) -> None:
        self.site, self.load, self.seconds = site, load, minutes * 60
        self.pace = Pace.of(minutes)
        self.chance = random.Random(seed)
        self.truth, self.said = Truth(site.scratch / "supervisord.log"), Said(site.log_path)
        self.hung: list[Done] = []
        self.rolled: list[int] = []
        self.samples: dict[str, list[tuple[float, float]]] = {name: [] for name in BOUNDS}
        self.wrong: list[str] = []
        self.began = time.monotonic()
        self._held: list[Link] = []
        self._rolling: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """To the end of its time, and on until the last hang is seen through."""
        with contextlib.ExitStack() as stack:
            self._read()
            listener = self.truth.pids[self.site.listener]
            next_hang, next_roll, next_sample, next_word = 5.0, self.pace.roll_s / 2, 0.0, 60.0
            while (past_s := time.monotonic() - self.began) < self.seconds:
                self._read()
                if past_s >= next_sample:
                    next_sample = past_s + self.pace.sample_s
                    self._sample(past_s, listener)
                if past_s >= next_hang and not self._open() and past_s < self.seconds - LATE_S:
                    next_hang = past_s + self.chance.uniform(*self.pace.hang_s)
                    self._hang()
                if past_s >= next_roll and self._rolling is None:
                    next_roll = past_s + self.pace.roll_s
                    self._rolling = stack.enter_context(rolls.asking(self.site, "restart", "--timeout", "200", "web"))
                self._see_roll()
                if past_s >= next_word:
                    next_word += 60.0
                    self.tell()
                time.sleep(0.02)
            with contextlib.suppress(AssertionError):  # judged below
                wait_for(self._all_seen_through, 60, "the last hang and the last roll seen through")
            for link in self._held:
                link.close()
        self._judge(listener)

    def tell(self) -> None:
        """A line of progress."""
        reasons = Counter(event["reason"] for event in self._restarts())
        now = {name: its[-1][1] for name, its in self.samples.items() if its}
        words = ", ".join(f"{name} {value / MIB:.1f} MiB" if "rss" in name else f"{name} {value:g}"
                          for name, value in now.items())  # fmt: skip
        minutes = (time.monotonic() - self.began) / 60
        print(
            f"{minutes:5.1f} min  {self.load.answered} answers, {dict(reasons)}, rolls {self.rolled}; {words}",
            flush=True,
        )

    # -- what happens ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self.truth.read()
        self.said.read()
        for done in self._open():
            if not processes.alive(done.pid):
                done.gone = time.time()

    def _open(self) -> list[Done]:
        return [done for done in self.hung if done.gone is None]

    def _sample(self, past_s: float, listener: int) -> None:
        assert self.site.process is not None
        with contextlib.suppress(OSError):  # it has ended: that is told by the log
            for who, pid in (("listener", listener), ("supervisord", self.site.process.pid)):
                self.samples[f"{who}_rss_bytes"].append((past_s, processes.resident_bytes(pid)))
                self.samples[f"{who}_fds"].append((past_s, processes.descriptors(pid)))
            self.samples["listener_threads"].append((past_s, processes.threads(listener)))

    def _hang(self) -> None:
        """Make a worker hang, if one can be reached that is not being replaced just now."""
        kind, worker = self.chance.choice(KINDS), self.chance.choice(WORKERS)
        pid = self.truth.pids.get(worker, 0)
        if not pid or self.said.verdicts.get(pid) != "healthy":
            return
        done = Done(kind, worker, pid, least_s=SICK[kind].least_s, bound_s=SICK[kind].most_s + LATE_S)
        if kind == "stop":
            done.began = time.time()
            os.kill(pid, signal.SIGSTOP)
        else:
            link = self._reached(pid)
            if link is None:
                return
            self._held.append(link)
            done.began = time.time()
            link.send(request_for("keep-alive", f"/hang/{kind}"))
        self.hung.append(done)

    def _reached(self, pid: int) -> Link | None:
        workers = [pid for name, pid in self.truth.pids.items() if name in WORKERS]
        for _ in range(3):
            link = None
            with contextlib.suppress(Failed):
                with client.only(pid, workers):
                    link = connect(self.site.url(), False, REACH_S)
                    body, _ = link.ask(request_for("keep-alive", "/pid"))
                if json.loads(body)["pid"] == pid:
                    return link
            if link is not None:
                link.close()
            time.sleep(0.2)
        return None

    def _see_roll(self) -> None:
        if self._rolling is not None and (code := self._rolling.poll()) is not None:
            self.rolled.append(code)
            if code == 2:
                self.wrong.append(f"a roll was refused: {rolls.ended(self._rolling)}")
            self._rolling = None

    def _all_seen_through(self) -> bool:
        self._read()
        self._see_roll()
        pids = [self.truth.pids.get(name, 0) for name in WORKERS]
        well = all(self.said.verdicts.get(pid) == "healthy" for pid in pids)
        return not self._open() and self._rolling is None and well

    # -- what was wrong --------------------------------------------------------------------------------------------

    @property
    def pinned_at(self) -> dict[int, float]:
        """When each worker was first pinned: soon after it was started."""
        return {event["pid"]: at(event) for event in reversed(self.said.events) if event["event"] == "pinned"}

    def _restarts(self) -> list[Event]:
        return [event for event in self.said.events if event["event"] == "restart"]

    def _judge(self, listener: int) -> None:
        restarts: dict[int, list[Event]] = {}
        for event in self._restarts():
            restarts.setdefault(event["pid"], []).append(event)
        hung = {done.pid for done in self.hung}
        self.wrong += self._judge_recycling(restarts, hung)
        for pid, events in restarts.items():
            if not (events[0]["reason"] in RECYCLED or (events[0]["reason"] == "silent" and pid in hung)):
                self.wrong.append(f"wrong restart: {events[0]['message']}")
            if len(events) > 1:
                self.wrong.append(f"restarted twice: pid {pid}")
        for end in self.truth.ends:
            if end.name == self.site.listener or end.pid not in restarts:
                self.wrong.append(f"{end.name} (pid {end.pid}) has ended, and nothing demanded it: {end.how}")
        for done in self.hung:
            self.wrong += self._judge_hang(done, restarts.get(done.pid, []))
        facts = Facts(sick=self.hung, lost=self.load.take_lost())
        self.with_sick, _, lost = whose(facts, restarts)
        self.wrong += [f"lost by a healthy worker: {one.how} {one.detail} (pid {one.pid})" for one in lost]
        self.wrong += [f"in the listener's log: {line}" for line in self.said.strange]
        if self.truth.pids.get(self.site.listener) != listener:
            self.wrong.append("the listener is another one than at first")
        if not any(done.pid in restarts for done in self.hung):
            self.wrong.append("not one hang was found")
        if not any(code == 0 for code in self.rolled):
            self.wrong.append(f"no roll was done: {self.rolled}")
        for name, its in self.trends().items():
            if not its.flat:
                self.wrong.append(f"{name} has grown by {its.growth:g}, and {its.bound:g} is allowed")

    def _judge_recycling(self, restarts: dict[int, list[Event]], hung: set[int]) -> Iterator[str]:
        """Nobody is recycled before his time or without being asked for, and nobody well is called silent."""
        least_s = float(self.pace.max_age.partition(":")[0])
        for pid, events in restarts.items():
            age_s = at(events[0]) - self.pinned_at.get(pid, -math.inf)
            if events[0]["reason"] == "max_age" and age_s < least_s - YOUNG_S:
                yield f"recycled for its age after {age_s:.1f} s: pid {pid}"
        rolling = sum(events[0]["reason"] == "rolling" for events in restarts.values())
        rolls_asked = len(self.rolled) + (self._rolling is not None)
        if rolling > len(WORKERS) * rolls_asked:
            yield f"{rolling} restarts in {rolls_asked} rolls"
        for event in self.said.events:
            if event["event"] == "verdict" and event["verdict"] in ("silent", "failing") and event["pid"] not in hung:
                yield f"wrong verdict: {event['message']}"

    def _judge_hang(self, done: Done, restarts: list[Event]) -> Iterator[str]:
        what = f"{done.what} of {done.worker} (pid {done.pid})"
        if self._void(done, restarts):
            return
        if done.gone is None or not restarts:
            yield f"{what} was not found"
        elif not done.least_s <= (took_s := at(restarts[0]) - done.began) <= done.bound_s:
            yield f"{what} was restarted after {took_s:.2f} s instead of {done.least_s:.2f} to {done.bound_s:.2f} s"

    def _void(self, done: Done, restarts: list[Event]) -> bool:
        """It was its turn to be recycled before it could be found."""
        return bool(restarts) and restarts[0]["reason"] in RECYCLED and at(restarts[0]) - done.began <= done.bound_s

    def trends(self) -> dict[str, Trend]:
        """How each has gone on since the warm-up."""
        return {name: trend(its, self.pace.warm_up_s, BOUNDS[name]) for name, its in self.samples.items()}

    def as_object(self) -> dict[str, object]:
        """The result for a file."""
        took = {done.pid: at(event) - done.began for done in self.hung for event in self._restarts()
                if event["pid"] == done.pid and event["reason"] == "silent"}  # fmt: skip
        by_kind: dict[str, list[float]] = {}
        for done in self.hung:
            if done.pid in took:
                by_kind.setdefault(done.what, []).append(round(took[done.pid], 2))
        return {
            "summary": "soak",
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "listen": self.pace.listen,
            "python": platform.python_version(),
            **{key: interpreter.about()[key] for key in ("supervisor", "uvicorn")},
            "hangs": len(self.hung),
            "found": len(took),
            "void": sum(self._void(done, [e for e in self._restarts() if e["pid"] == done.pid]) for done in self.hung),
            "hang_s": {kind: [min(its), max(its)] for kind, its in sorted(by_kind.items())},
            "restarts": dict(Counter(event["reason"] for event in self._restarts())),
            "rolls": self.rolled,
            "answered": self.load.answered,
            "lost_with_the_sick": getattr(self, "with_sick", 0),
            "trends": {name: {**dataclasses.asdict(its), "flat": its.flat} for name, its in self.trends().items()},
            "wrong": self.wrong,
        }


def soak(minutes: float, seed: int, samples: Path | None = None) -> dict[str, object]:
    """Run it; what it found. ``samples``: every sample goes there as a JSON line."""
    pace = Pace.of(minutes)
    with Supervisord(pace.program, listen=pace.listen, sections=PLUGIN) as site:
        site.wait_pinned()
        rolls.wait_healthy(site)
        with Load(site.url()) as load:
            its = Soak(site, load, minutes, seed)
            its.run()
            if samples is not None:
                lines = [{name: dict(values)} for name, values in its.samples.items()]
                samples.write_text("".join(json.dumps(line) + "\n" for line in [*lines, its.as_object()]))
            return its.as_object()


def main(arguments: Sequence[str]) -> int:
    """0: nothing was wrong and nothing has grown; 1: something; 2: wrong use."""
    parser = argparse.ArgumentParser(prog="python3 tests/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="%(default)g; below 10 everything goes quicker")
    parser.add_argument("--seed", type=int, default=None, help="of the hangs; by chance, and printed")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="samples and result go there")
    options = parser.parse_args(arguments)
    if options.minutes < 1:
        parser.error("--minutes: at least 1")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}: {options.minutes:g} minutes", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored where a shell has put us into the background
        signal.signal(number, signal.default_int_handler)
    try:
        found = soak(options.minutes, seed, options.json)
    except KeyboardInterrupt:
        print("interrupted; everything has been ended")
        return 1
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
