"""What a look had shown of a worker when it was condemned: for the log's JSON and for the history."""

from __future__ import annotations

import json
from typing import Any

from supervisor_uvicorn.model import HttpOutcome, Usage
from supervisor_uvicorn.verdict import Past

MOST_WORDS_BYTES = 300
MOST_BODY_BYTES = 1024
"""In JSON, where a byte that is no text takes six. The history keeps 200 of these."""


def evidence(past: Past, now: float) -> dict[str, Any]:
    """What is known of this worker at ``now`` (monotonic), as JSON values of at most 2,300 bytes. Unknown is None.

    ``*_s`` are seconds: ``verdict_s`` for how long this verdict has held, ``seen_s`` for how long we have known the
    process, ``unread_s`` the age of the oldest unread pulse, ``unmoved_s`` since its ticks last moved.
    ``wrong_answers`` are those one after another.
    """
    ticks = None
    if past.ticks is not None:
        unmoved_s = round(max(0.0, now - past.moved_at), 3)
        ticks = {"switches": past.ticks.switches, "cpu_s": round(past.ticks.cpu_s, 3), "unmoved_s": unmoved_s}
    return {
        "verdict": past.verdict.value,
        "verdict_s": round(max(0.0, now - past.since), 3),
        "reason": _cut(past.reason, MOST_WORDS_BYTES),
        "state": past.state.value,
        "seen_s": round(max(0.0, now - past.first_seen), 3),
        "serving": past.serving,
        "pinned": past.pinned,
        "unread_s": None if past.unread_since is None else round(max(0.0, now - past.unread_since), 3),
        "lag_s": None if past.lag_s is None else round(past.lag_s, 6),
        "ticks": ticks,
        "traced_by": past.traced_by or None,
        "wrong_answers": past.wrong,
        "http": None if past.http is None else _http(past.http),
        "usage": None if past.usage is None else _usage(past.usage, now),
    }


def _usage(usage: Usage, now: float) -> dict[str, Any]:
    return {
        "age_s": round(usage.age_s + max(0.0, now - usage.at), 1),
        "rss_bytes": usage.rss_bytes,
        "helpers": usage.helpers,
        "fds": usage.fds,
        "fds_limit": usage.fds_limit,
    }


def _http(http: HttpOutcome) -> dict[str, Any]:
    return {
        "status": http.status,
        "seconds": round(http.seconds, 6),
        "reason": _cut(http.reason, MOST_WORDS_BYTES),
        "body": _cut(http.body.decode("utf-8", "replace"), MOST_BODY_BYTES),
    }


def _cut(text: str, most_bytes: int) -> str:
    """The beginning of ``text`` that takes at most so many bytes in JSON."""
    while len(json.dumps(text)) > most_bytes:
        text = text[: len(text) * 7 // 8]
    return text
