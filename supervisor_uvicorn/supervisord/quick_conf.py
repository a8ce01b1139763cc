"""Where supervisord's server is, by ``[supervisorctl]`` of its configuration, without supervisor's own parser.

``supervisor.options`` takes 60 ms and 11 MB for it, most of a ``healthcheck``. Here the standard library's parser is
asked in the same way (supervisor 4.3.0 and 4.2.5, options.py ``ClientOptions.read_config``); what is unclear is left to
supervisor itself, which also has the words for it.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping


def search_path(program: str) -> list[str]:
    """supervisorctl's own, in order: it begins above the directory of ``program``, which is ``sys.argv[0]`` there
    (supervisor 4.3.0, options.py ``Options.__init__``).
    """
    here = os.path.dirname(os.path.dirname(program))
    return [
        os.path.join(here, "etc", "supervisord.conf"),
        os.path.join(here, "supervisord.conf"),
        "supervisord.conf",
        "etc/supervisord.conf",
        "/etc/supervisord.conf",
        "/etc/supervisor/supervisord.conf",
    ]


def server_in(path: str, env: Mapping[str, str]) -> tuple[str, str, str] | None:
    """URL, user name and password; "" for one that is not set. None: ask supervisor's own parser."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    expansions = {f"ENV_{name}": value for name, value in env.items()}
    here = {"here": os.path.dirname(os.path.normcase(os.path.abspath(os.path.expanduser(path))))}
    try:
        with open(path) as file:
            parser.read_file(file)
        section = parser["supervisorctl"]
        url = section.get("serverurl", "http://localhost:9001") % {**expansions, **here}
        username, password = (section.get(key, "") % expansions for key in ("username", "password"))
    except (OSError, configparser.Error, KeyError, TypeError, ValueError):
        return None
    if url.startswith("unix://"):
        url = "unix://" + os.path.normcase(os.path.abspath(os.path.expanduser(url[len("unix://") :])))
    return url, username, password
