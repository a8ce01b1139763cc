"""What a Python has installed, from its files alone: it is never run, and nothing of it is imported."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions

from supervisor_uvicorn.doctor.site import Interpreter

_ASKED = ("supervisor", "uvicorn", "setuptools", "supervisor-uvicorn")


def python_of(words: Sequence[str], environ: Mapping[str, str], directory: str) -> str:
    """The interpreter that the command ``words`` runs: itself, or that of its script's first line; "" for none."""
    if not words:
        return ""
    program = os.path.join(directory, words[0]) if "/" in words[0] else shutil.which(words[0], path=environ.get("PATH"))
    if not program:
        return ""
    if os.path.basename(program).startswith(("python", "pypy")):
        return program
    try:
        with open(program, "rb") as file:
            first = os.fsdecode(file.readline(1024))
    except OSError:
        return ""
    found = first[2:].split() if first.startswith("#!") else []
    if found and os.path.basename(found[0]) == "env":
        found = [shutil.which(found[-1], path=environ.get("PATH")) or ""]
    return found[0] if found and os.path.basename(found[0]).startswith(("python", "pypy")) else ""


def inspect(python: str) -> Interpreter:
    """The packages that matter here, and the version."""
    sites = site_directories(python)
    packages = {}
    for name in _ASKED:
        found = next(iter(distributions(name=name, path=list(sites))), None)
        if found is not None:
            packages[name] = found.version
    pkg_resources = any(os.path.exists(os.path.join(site, "pkg_resources")) for site in sites)
    return Interpreter(python, _version(python, sites), packages, pkg_resources)


def site_directories(python: str) -> list[str]:
    """Where that Python looks for packages (site.py of CPython; dist-packages is Debian's)."""
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    if prefix == sys.prefix:
        return [path for path in sys.path if path]
    version = _version_of_file(python, prefix)
    named = f"python{version[0]}.{version[1]}" if version else "python3.*"
    patterns = [f"lib*/{named}/site-packages", f"local/lib/{named}/dist-packages", "lib/python3/dist-packages"]
    found = [path for pattern in patterns for path in sorted(glob.glob(os.path.join(prefix, pattern)))]
    settings = _pyvenv(prefix)
    if settings.get("include-system-site-packages", "").lower() == "true" and settings.get("home"):
        found += site_directories(os.path.join(settings["home"], os.path.basename(python)))
    return found


def _pyvenv(prefix: str) -> dict[str, str]:
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            pairs = (line.partition("=") for line in file)
            return {key.strip().lower(): value.strip() for key, _, value in pairs}
    except (OSError, ValueError):
        return {}


def _version_of_file(python: str, prefix: str) -> tuple[int, int] | None:
    settings = _pyvenv(prefix)
    for text in (settings.get("version", ""), settings.get("version_info", ""), os.path.realpath(python)):
        if match := re.search(r"(?:^|python)(\d+)\.(\d+)[.\d]*$", text) or re.match(r"(\d+)\.(\d+)\.", text):
            return int(match[1]), int(match[2])
    return None


def _version(python: str, sites: Sequence[str]) -> tuple[int, int] | None:
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    if prefix == sys.prefix:
        return sys.version_info[0], sys.version_info[1]
    if version := _version_of_file(python, prefix):
        return version
    found = {match[1] for site in sites if (match := re.search(r"/python(\d+\.\d+)/", site))}
    if len(found) == 1:
        major, _, minor = found.pop().partition(".")
        return int(major), int(minor)
    return None


def why_not_importable(spec: str, python: str, search: Sequence[str] = ()) -> str:
    """What is missing of ``package.module:name`` for that Python; "" where nothing is, or where files do not tell.

    ``search``: further directories, of its PYTHONPATH.
    """
    module, _, name = spec.partition(":")
    parts = module.split(".")
    sites = site_directories(python)
    if not sites or parts[0] in sys.stdlib_module_names:
        return ""
    places = [*search, *sites, *_pth_directories(sites)]
    for place in places:
        base = os.path.join(place, *parts)
        for file in (f"{base}.py", os.path.join(base, "__init__.py")):
            if os.path.isfile(file):
                return _why_no_name(file, module, name)
        if glob.glob(f"{base}.*.so"):
            return ""
    if _editable(parts[0], sites):
        return ""
    return f"There is no module {module} for {python}."


def _why_no_name(file: str, module: str, name: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            text = source.read()
    except OSError:
        return ""
    first = name.split(".")[0]
    if not first or re.search(rf"\b{re.escape(first)}\b", text) or "import *" in text:
        return ""
    return f"{module} has no {first}."


def _pth_directories(sites: Sequence[str]) -> list[str]:
    found = []
    for file in (one for site in sites for one in glob.glob(os.path.join(site, "*.pth"))):
        try:
            with open(file, encoding="utf-8", errors="replace") as lines:
                found += [line.strip() for line in lines if line.startswith("/")]
        except OSError:
            continue
    return found


def _editable(package: str, sites: Sequence[str]) -> bool:
    """Is it one that setuptools has installed in place, through a finder of its own?"""
    for file in (one for site in sites for one in glob.glob(os.path.join(site, "__editable__*finder.py"))):
        try:
            with open(file, encoding="utf-8", errors="replace") as source:
                if re.search(rf"['\"]{re.escape(package)}['\"]", source.read()):
                    return True
        except OSError:
            continue
    return False
