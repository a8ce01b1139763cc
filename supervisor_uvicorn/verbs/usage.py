"""What the page says that its workers take of the machine: checked as ``page.py`` checks the rest of it, and the ages
as of now. An older listener says nothing of it, which is *not known*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.verbs.stored import NUMBER_OR_NULL, TEXT, WHOLE_OR_NULL, BadPage, Shape, checked

_USAGE: Shape = {
    "over": TEXT,
    "rss_bytes": WHOLE_OR_NULL,
    "age_s": NUMBER_OR_NULL,
    "cpu_s": NUMBER_OR_NULL,
    "fds": WHOLE_OR_NULL,
    "connections": WHOLE_OR_NULL,
    "helpers": WHOLE_OR_NULL,
}


def with_usage(body: Mapping[str, Any], page_age_s: float) -> dict[str, Any]:
    """``body`` (of a ``Page``) with all these keys in each worker; each ``age_s`` is ``page_age_s`` (seconds) more.

    Raises :class:`BadPage`.
    """
    programs = []
    for program in body["programs"]:
        workers = []
        for given in program["workers"]:
            try:
                worker = {**given, **checked(given, _USAGE, one_line(given["name"])[:80])}
            except BadPage as error:
                raise BadPage(f"the page on the board cannot be read: {error}") from None
            if worker["age_s"] is not None:
                worker["age_s"] = round(worker["age_s"] + page_age_s, 3)
            workers.append(worker)
        programs.append({**program, "workers": workers})
    return {**body, "programs": programs}
