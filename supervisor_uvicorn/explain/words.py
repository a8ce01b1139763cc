"""An explanation in words."""

from __future__ import annotations

from supervisor_uvicorn.explain.explanation import KERNEL, Explanation, Facts

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in an uninterruptible sleep (a disk, a network file system)",
    "T": "stopped by a signal (SIGSTOP)",
    "t": "stopped by a debugger",
    "Z": "ended, and not yet reaped",
    "X": "ended",
    "I": "idle",
}
_MIB = 1024 * 1024


def words(explanation: Explanation) -> str:
    """Several lines for a terminal; see :class:`Explanation`."""
    parts = [*_stack(explanation), f"kernel: {kernel(explanation)}", *facts(explanation.facts)]
    if explanation.facts.lag_s is not None:
        parts.append(f"lag: {seconds(explanation.facts.lag_s)}")
    parts += [f"no better: {why}" for why in explanation.why_not]
    return "\n".join(parts)


def headline(explanation: Explanation) -> str:
    """The one thing to know, for a log line: "in wait_for_recovery (conf/demo/app.py:62)"."""
    if explanation.stack:
        return f"in {explanation.stack[0]}"
    return kernel(explanation)


def kernel(explanation: Explanation) -> str:
    """What the kernel says: "sleeping in recvfrom, descriptor 15: 10.0.0.5:5432 (unix_stream_read_generic)"."""
    if not explanation.state:
        return "there is no such process any more"
    text = _STATES.get(explanation.state, f"state {explanation.state}")
    if explanation.syscall:
        text += f" in {explanation.syscall}"
    if explanation.wchan:
        text += f" ({explanation.wchan})"
    return text


def facts(found: Facts) -> list[str]:
    """What it used, a line for each kind; what is not known is left out."""
    told = []
    if found.wakes is not None and found.look_s is not None:
        times = "once" if found.wakes == 1 else f"{found.wakes} times"
        share = "" if found.cpu_share is None else f" and used {found.cpu_share:.0%} of a CPU"
        told.append(f"ticks: in {found.look_s:.1f} s its main thread woke {times}{share}")
    if found.connections is not None:
        told.append(f"connections: {found.connections}")
    used = []
    if found.rss_bytes is not None:
        used.append(f"memory {found.rss_bytes / _MIB:.0f} MiB")
    if found.cpu_s is not None:
        used.append(f"CPU so far {found.cpu_s:.1f} s")
    if found.threads is not None:
        used.append(f"threads {found.threads}")
    if found.fds is not None:
        used.append(f"descriptors {found.fds}" + (f" of {found.fd_limit}" if found.fd_limit is not None else ""))
    if used:
        told.append(", ".join(used))
    return told


def seconds(value: float) -> str:
    """``0.02 ms``, ``31 s``: a lag spans six orders of magnitude."""
    return f"{value * 1000:.2g} ms" if value < 0.1 else f"{value:.3g} s"


def _stack(explanation: Explanation) -> list[str]:
    if explanation.source == KERNEL:
        return ["no Python stack"]
    told = [f"main thread, innermost frame first (from {explanation.source}):"]
    told += [f"  {frame}" for frame in explanation.stack]
    if explanation.gil:
        told.append("another thread holds the interpreter's lock (GIL), so the main thread may only be waiting for it:")
        told += [f"  {frame}" for frame in explanation.gil]
    return told
