"""The reload thread: reads the settings again when somebody asks for it. Floor 4, beside listen.py.

A file may lie on a disk that does not answer, so neither a look nor an event waits for this thread. What it has read is
left in the :class:`Exchange`; the look thread takes it between two looks. What is wrong is refused whole.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import time
from collections.abc import Callable, Mapping

from .exchange import Exchange
from .hup import HUP
from .operations import MOST_WORDS, Reply
from .reload import Changes, changes, in_force
from .report import events
from .settings import ListenSettings, SettingsError, load
from .settings_file import included_files, new_parser, parse_file, read_sections
from .supervisord.request import RELOAD, BadRequest, parse

KEPT = "; the settings stay as they were"
STUCK_S = 2.0
"""Less than whoever asks waits for an answer (verbs/asking.py)."""

NO_FILE = (
    "no --settings FILE was given, so there is nothing to read again: write command=supervisor-uvicorn listen "
    "--settings FILE in the [eventlistener:...] section (supervisord.conf itself will do), then supervisorctl update"
)


class Reloads:
    """``ask`` and ``overhear`` may be called from any thread. ``args`` are the listener's own, of which the flags stay
    as they are; ``settings`` are those that it was started with; ``asked`` is where HUP lands (hup.py)."""

    def __init__(
        self,
        args: argparse.Namespace,
        settings: ListenSettings,
        env: Mapping[str, str],
        tell: Callable[[events.Event], None],
        board: Exchange,
        asked: queue.SimpleQueue[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._args = args
        self._file: str | None = getattr(args, "settings", None)
        self._env = env
        self._tell = tell
        self._board = board
        self._asked = asked
        self._clock = clock
        self._reading_since: float | None = None
        self._told_stuck: float | None = None
        self._loaded = self._in_force = settings
        self._had_sections, self._included = False, dict[str, list[str]]()
        if self._file is not None:
            with contextlib.suppress(SettingsError):  # it has just been read; the next reload will say so
                self._had_sections, self._included = bool(read_sections(self._file)), _included(self._file)

    def ask(self, ident: str) -> None:
        """Read them soon, and answer under ``ident``; at once where the last reading does not end (a disk that does not
        answer)."""
        since = self._reading_since
        if since is None or self._clock() - since < STUCK_S:
            self._asked.put(ident)
            return
        said = f"{self._file} cannot be read: the last reading has not ended for {self._clock() - since:.0f} s{KEPT}"
        if self._told_stuck != since:
            self._told_stuck = since
            self._tell(events.Error("", f"the settings were not taken: {said}", reason="settings"))
        self._board.put_reloaded(None, [Reply(ident, RELOAD, False, said[:MOST_WORDS])])

    def overhear(self, data: str) -> None:
        """A request that another listener answers, because this one stands by: it takes the new settings as well."""
        with contextlib.suppress(BadRequest):
            if parse(data).verb == RELOAD:
                self._asked.put(HUP)

    def run(self) -> None:
        """The thread."""
        while True:
            asked = {self._asked.get()}
            with contextlib.suppress(queue.Empty):  # one reading answers all who asked before it
                while True:
                    asked.add(self._asked.get_nowait())
            self._reading_since = self._clock()
            self._reload(sorted(asked - {HUP}))
            self._reading_since = None

    def _reload(self, idents: list[str]) -> None:
        try:
            loaded = self._read()
        except Exception as error:  # noqa: BLE001 - told, and refused whole: the listener watches on
            said = (str(error) if isinstance(error, SettingsError) else f"{self._file} cannot be read: {error!r}")[
                : MOST_WORDS - len(KEPT)
            ] + KEPT
            self._tell(events.Error("", f"the settings were not taken: {said}", reason="settings"))
            replies = [Reply(ident, RELOAD, False, said) for ident in idents]
            self._board.put_reloaded(None, replies)
            return
        found = changes(self._in_force, loaded)
        self._loaded, self._in_force = loaded, in_force(self._in_force, loaded)
        said = "; ".join(self._words(found))
        self._board.put_reloaded(self._in_force, [Reply(ident, RELOAD, True, said[:MOST_WORDS]) for ident in idents])
        more = {"changed": list(found.applied), "needs_restart": list(found.at_start)}
        self._tell(events.Reloaded("", f"{self._file} was read again: {said}", more=more))

    def _read(self) -> ListenSettings:
        """Raises :class:`SettingsError` also where what was written before is not there any more: an editor or a copy
        that is half done leaves an empty file, which by itself would be right."""
        if self._file is None:
            raise SettingsError(NO_FILE)
        loaded = load(self._args)
        included = _included(self._file)
        sections = bool(read_sections(self._file))
        if loaded != self._loaded:
            lost = [pattern for pattern, files in included.items() if self._included.get(pattern) and not files]
            if lost:
                raise SettingsError(
                    f"{self._file}, [include], files: {lost[0]} finds no file any more (before: "
                    f"{self._included[lost[0]][0]}); put it back, or take {lost[0]} out"
                )
            if self._had_sections and not sections:
                raise SettingsError(
                    f"{self._file}: has no [supervisor-uvicorn] section any more; is it being written? For the "
                    "defaults write [supervisor-uvicorn] with nothing in it"
                )
        self._had_sections, self._included = sections, included
        return loaded

    def _words(self, found: Changes) -> list[str]:
        words = [", ".join(found.applied) or "nothing has changed"] if found.applied or not found.at_start else []
        if found.at_start:
            needs = "needs" if len(found.at_start) == 1 else "need"
            words.append(f"{', '.join(found.at_start)} {needs} a restart of the listener: {self._restart()}")
        return words

    def _restart(self) -> str:
        """supervisord tells its children their names (supervisor 4.3.0, process.py ``_spawn_as_child``)."""
        name, group = self._env.get("SUPERVISOR_PROCESS_NAME", ""), self._env.get("SUPERVISOR_GROUP_NAME", "")
        if not name or not group:
            return "restart it"
        return f"supervisorctl restart {name if name == group else f'{group}:{name}'}"


def _included(file: str) -> dict[str, list[str]]:
    """Each pattern of the ``[include]`` section of ``file``, and the files that it finds. Raises SettingsError."""
    found = {}
    for pattern in parse_file(file).get("include", "files", fallback="").split():
        alone = new_parser()
        alone.read_dict({"include": {"files": pattern}})
        found[pattern] = included_files(alone, file)
    return found
