"""Where a worker is stuck, and what it used: by py-spy, by faulthandler's traceback in its log, by the kernel alone.

Floor 2. Before a silent worker is ended::

    explanation = yield from before_the_end(worker, socket=member.socket, deadline=..., now=...)
    trail = Trail(info.stderr_logfile, info.stdout_logfile)      # just before ABRT, if ABRT it is
    explanation = yield from trail.read(explanation, ...)        # when it is gone
"""

from supervisor_uvicorn.explain.explanation import FAULTHANDLER, KERNEL, PY_SPY, Explanation, Facts
from supervisor_uvicorn.explain.look import before_the_end, directory_of, now
from supervisor_uvicorn.explain.trail import Trail
from supervisor_uvicorn.explain.words import headline

__all__ = [
    "FAULTHANDLER",
    "KERNEL",
    "PY_SPY",
    "Explanation",
    "Facts",
    "Trail",
    "before_the_end",
    "directory_of",
    "headline",
    "now",
]
