"""The files of ``conf/``, each as a copy that can be started several at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from harness import interpreter, users
from harness.supervisord import Supervisord, free_port

CONF = interpreter.ROOT / "conf"
ALL = sorted(path.parent.name for path in CONF.glob("*/supervisord.conf"))


class Copied(Supervisord):
    """A configuration of ``conf/`` in a directory of its own; it writes text logs, as it would for a user.

    Only ports, the directories outside of it, and the name of the virtual environment are replaced, ``listen`` is added
    to the listener's command, and ``app`` stands for the application. ``prefix`` is put before supervisord's command.
    """

    def __init__(self, name: str, listen: str = "", *, app: str = "", prefix: Sequence[str] = ()) -> None:
        self.port = free_port()
        text = (CONF / name / "supervisord.conf").read_text()
        text = text.replace("localhost:8000", f"localhost:{self.port}")
        text = text.replace("0.0.0.0:8000", f"127.0.0.1:{self.port}")
        text = text.replace("tcp://127.0.0.1:8000", f"tcp://127.0.0.1:{self.port}")
        for directory in ("/run", "/srv/app", "/var/log"):
            text = text.replace(f"{directory}/", "{scratch}/").replace(f"={directory}\n", "={scratch}\n")
        text = text.replace("/opt/web/venv/bin/", "{scratch}/venv/bin/")
        text = text.replace("supervisor-uvicorn listen", f"supervisor-uvicorn listen {listen}".rstrip())
        text = text.replace("example:App", app or "example:App")
        environment = {"DEMO_PORT": str(self.port)}
        super().__init__(conf=text, environment=environment, command_prefix=[*(users.way_prefix() or []), *prefix])
        self._extra_environment["DEMO_DIR"] = str(self.scratch)
        shutil.copy(CONF / "recipe" / "example.py", self.scratch)
        shutil.copy(CONF / "demo" / "app.py", self.scratch)
        shutil.copy(interpreter.APPS / "faulty.py", self.scratch)
        virtual = self.scratch / "venv" / "bin"
        virtual.mkdir(parents=True)
        for command in ("uvicorn", "supervisor-uvicorn"):
            found = shutil.which(command, path=self.environment["PATH"])
            assert found, f"no {command} on PATH"
            (virtual / command).symlink_to(found)

    def text_log(self) -> str:
        """The listener's text log (and more), wherever the configuration sends it."""
        paths = [self.scratch / "supervisord.out", self.scratch / "uvicorn-health.log"]
        return "".join(path.read_text() for path in paths if path.exists())

    def pinned(self) -> set[int]:
        """The pids that the listener's text log calls pinned."""
        return {int(pid) for line in re.findall(r" pinned: (.*)", self.text_log()) for pid in re.findall(r"\d+", line)}
