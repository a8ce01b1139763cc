"""What the look thread hands to the report thread: the page, the memory, the history. Floor 4, beside listen.py."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from . import memory
from .report.history import History
from .report.page import changes, page
from .reporter import HISTORY, MEMORY, PAGE, Reporter
from .settings import ListenSettings
from .watch import Snapshot, Watch

REPORT_S = 5.0  # a board that is older than three of these is stale


class Pages:
    """One thread's affair."""

    def __init__(self, history: History, reporter: Reporter) -> None:
        self._history = history
        self._reporter = reporter
        self._key: object = None
        self._at = 0.0
        self._texts: Mapping[str, str] = {}

    def report(self, watch: Watch, snapshot: Snapshot, settings: ListenSettings, now: float) -> None:
        """Hand over what has changed; at least each REPORT_S, so that a reader knows that we live."""
        every_s = max(REPORT_S, settings.pulse_s)
        answers = [reply.answer() for reply in watch.replies]
        found = page(
            snapshot.members,
            watch.ledger,
            now=now,
            paused=watch.pauses,
            restarts=self._history.restarts,
            answers=answers,
            listener={"pid": os.getpid(), "reports_every_s": every_s, "dry_run": settings.general.dry_run},
        )
        key = changes(found)
        if key == self._key and now - self._at < every_s:
            return
        self._key, self._at = key, now
        texts = {
            MEMORY: memory.to_text(watch.ledger, watch.pauses, answers, now),
            PAGE: json.dumps(found),  # after it: what is answered on the page is remembered
            HISTORY: self._history.text(),
        }
        before, self._texts = self._texts, texts
        for kind, text in texts.items():
            if before.get(kind) != text:
                self._reporter.put(kind, text)
