"""What the guides name exists: commands, flags, brakes, events, RPC methods, findings, quoted words, files, links.

Each check takes a text and gives what is wrong with it, so that it is also tried on texts with a mistake in them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import supervisor
from supervisor.supervisorctl import DefaultControllerPlugin
from uvicorn.main import main as uvicorn_command

from supervisor_uvicorn import cli, helpers, policy, remedy, settings
from supervisor_uvicorn.doctor.catalogue import CATALOGUE
from supervisor_uvicorn.plugin import ctl
from supervisor_uvicorn.plugin.rpcinterface import RpcInterface
from supervisor_uvicorn.report import events
from supervisor_uvicorn.supervisord.preflight import LISTENER_SECTION

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.rst"))
PAGES = [ROOT / "README.rst", ROOT / "CHANGES.rst", *DOCS]

OTHERS = {"curl", "docker", "pip", "python3", "ss", "supervisord"}  # that a page may ask a reader to type
OTHERS_FLAGS = {
    *("--cap-add", "--pid", "--stop-timeout", "--interval", "--start-period", "--retries"),  # docker
    "--locals",  # py-spy
}
NO_FINDINGS = {"py-spy", "no-new-privileges", "uvicorn-health", "supervisor-uvicorn"}  # words with a hyphen


# -- reading a page ----------------------------------------------------------------------------------------------------


def literal_lines(text: str) -> list[str]:
    """The lines of every block of code, without their indent; those that end in a backslash joined."""
    found: list[str] = []
    indent: int | None = None  # of the paragraph that a block belongs to
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if indent is not None and line.strip() and depth <= indent:
            indent = None
        if indent is not None:
            found.append(line.strip())
        elif line.rstrip().endswith("::") or line.lstrip().startswith(".. code-block::"):
            indent = depth
    return re.sub(r"\\\n", " ", "\n".join(found)).splitlines()


def inline(text: str) -> list[str]:
    """What stands ``so`` in prose, on one line."""
    return [" ".join(found.split()) for found in re.findall(r"``([^`]+?)``", text)]


def typed(text: str) -> Iterator[tuple[str, bool]]:
    """Every command that starts something of ours, or that a reader types; and whether it is whole."""
    for line in literal_lines(text):
        bare = re.sub(r"\s+[#;] .*", "", line)
        if found := re.match(r"\s*CMD (\[.*\])", bare) or re.search(r"CMD (\[.*\])$", bare):
            yield shlex.join(json.loads(found[1])), True
        elif found := re.match(
            r"(?:\$ |command=)?(?:sudo |kubectl .* -- )?(supervisor-uvicorn .*)|\$ (.*)|(python3 .*)", bare
        ):
            yield found[1] or found[2] or found[3], True
    for words in inline(text):
        found = re.match(r"(?:\$ |sudo )?((?:supervisor-uvicorn|supervisorctl|python3) .*)", words)
        if found:
            yield found[1], False
        elif re.match(r"[a-z]+ [^:]*$", words) and words.split()[0] in (*ctl.VERBS, "healthcheck", "doctor"):
            yield f"supervisor-uvicorn {words}", False


# -- the checks --------------------------------------------------------------------------------------------------------


@functools.cache
def our_verbs() -> dict[str, ArgumentParser]:
    return _verbs(cli.parser())


@functools.cache
def ctl_verbs() -> dict[str, ArgumentParser]:
    return _verbs(ctl._parser())


def _verbs(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    (found,) = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    return dict(found.choices)


def uvicorn_flags() -> set[str]:
    return {flag for param in uvicorn_command.params for flag in (*param.opts, *param.secondary_opts)}


def wrong_commands(text: str) -> list[str]:
    return [f"{command}: {why}" for command, whole in typed(text) if (why := wrong_command(command, whole))]


def wrong_command(command: str, whole: bool) -> str:
    """Why it could not be typed so; "" where it could. Not ``whole``: a verb alone, or its flag alone, names it."""
    words = shlex.split(command.replace("%(here)s", str(ROOT / "conf" / "recipe")))
    if words[0] == "supervisor-uvicorn":
        return _wrong_verb(words[1:], our_verbs(), whole)
    if words[:2] == ["supervisorctl", "uvicorn"]:
        return _wrong_verb(words[2:], ctl_verbs(), whole)
    if words[0] == "supervisorctl":
        actions = [word for word in words[1:] if not word.startswith("-")]
        named = words[1].startswith("-") or hasattr(DefaultControllerPlugin, f"do_{actions[0]}")
        return "" if named else f"supervisorctl has no {actions[0]}"
    if words[0] == "python3":
        runnable = (ROOT / words[1]).is_file() or (ROOT / words[1] / "__main__.py").is_file()
        return "" if runnable else f"there is no {words[1]}"
    return "" if words[0] in OTHERS else f"nobody knows {words[0]}"


def _wrong_verb(words: list[str], verbs: dict[str, ArgumentParser], whole: bool) -> str:
    if not words or words[0] in ("VERB", "..."):
        return ""
    if words[0] not in verbs:
        return f"there is no verb {words[0]}"
    if words[0] == "serve":
        unknown = {word for word in words if word.startswith("--")} - uvicorn_flags()
        return f"uvicorn has no {sorted(unknown)}" if unknown else ""
    parser = verbs[words[0]]
    if not whole and (len(words) == 1 or (len(words) == 2 and words[1] in parser._option_string_actions)):
        return ""
    try:
        args = parser.parse_args(words[1:])
        if words[0] == "listen":
            settings.load(args)
    except (SystemExit, settings.SettingsError) as error:
        return f"the parser refuses it ({error})"
    return ""


def wrong_flags(text: str) -> list[str]:
    known = uvicorn_flags() | OTHERS_FLAGS
    known |= {
        flag for verbs in (our_verbs(), ctl_verbs()) for verb in verbs.values() for flag in verb._option_string_actions
    }
    named = {flag for words in inline(text) for flag in re.findall(r"(?<!\S)--[a-z0-9][a-z0-9-]*", words)}
    return [f"nobody has {flag}" for flag in sorted(named - known)]


def known_brakes() -> dict[str, str]:
    """Brake -> whom it holds: those of the policy's table, and those with which a remedy is called off."""
    table = re.findall(r"^    (\w+) +(all|health|failing|drain|roll|limit) ", policy.__doc__ or "", re.MULTILINE)
    source = inspect.getsource(remedy) + inspect.getsource(helpers)
    return dict.fromkeys(re.findall(r'CalledOff\("(\w+)"', source), "one") | dict(table)


def wrong_brakes(text: str) -> list[str]:
    section = text.partition("Nobody is restarted\n")[2].partition("\nStatus says unknown\n")[0]
    named = set(re.findall(r"^``(\w+)``  ", section, re.MULTILINE)) | {
        found for words in inline(text) for found in re.findall(r"^held: ([a-z_]+)$", words)
    }
    told = {"suspended" if brake == "budget" else brake for brake in known_brakes()}
    wrong = [f"there is no brake {brake}" for brake in sorted(named - told)]
    if section:
        must = {
            "suspended" if brake == "budget" else brake
            for brake, whom in known_brakes().items()
            if whom not in ("roll", "limit", "one")
        }
        wrong += [f"the brake {brake} is missing" for brake in sorted(must - named)]
    return wrong


def known_events() -> set[str]:
    return {
        kind
        for _, found in inspect.getmembers(events, inspect.isclass)
        if isinstance(kind := getattr(found, "kind", None), str) and kind
    }


def wrong_events(text: str) -> list[str]:
    """Kinds of events: in lines of the log and of ``history``, and where the prose says that they are events."""
    named = set(re.findall(r"^ +\d{4}-\d\d-\d\dT[0-9:.+]+  ([a-z-]+) ", text, re.MULTILINE))
    named |= set(re.findall(r"^ +[0-9:]{8},\d{3} (?:INFO|WARN|ERROR) ([a-z-]+): (?!'|web-)", text, re.MULTILINE))
    prose = " ".join(text.split())
    named |= set(
        re.findall(r"(?:\bevents?\b(?! loop)|\blogs\b|\beach change\b)[^.`]{0,30}``([a-z][a-z-]+)``(?!=)", prose)
    )
    return [f"there is no event {kind}" for kind in sorted(named - known_events() - {"exited", "spawned"})]


def wrong_methods(text: str) -> list[str]:
    named = dict(re.findall(r"^``uvicorn\.(\w+)\(([^)]*)\)``", text, re.MULTILINE))
    if not named:
        return []
    real = {
        name: ", ".join([*inspect.signature(method).parameters][1:])
        for name, method in inspect.getmembers(RpcInterface, inspect.isfunction)
        if not name.startswith("_")
    }
    return [f"{name}: {named.get(name)!r} here, {real.get(name)!r} in the code"
            for name in sorted(named.keys() | real.keys()) if named.get(name) != real.get(name)]  # fmt: skip


def wrong_findings(text: str) -> list[str]:
    known = {trap.name for trap in CATALOGUE} | known_events() | NO_FINDINGS
    named = {words for words in inline(text) if re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)+", words)}
    return [f"doctor has no {name}" for name in sorted(named - known)]


@functools.cache
def all_words() -> str:
    """Every text that the code of ours and of supervisor has, where a value is filled in a line feed."""
    found = []
    for package in (ROOT / "supervisor_uvicorn", Path(supervisor.__file__).parent):
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "\n" for p in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def wrong_words(text: str) -> list[str]:
    """What is explained term by term is what is said: ``...``, figures and names stand for what differs."""
    terms = re.findall(r"^(``.+``)\n    \S", text, re.MULTILINE)
    quoted = [term for line in terms for term in re.findall(r"``([^`]+)``", line)]
    pieces = [
        (term, piece.strip(" :"))
        for term in quoted
        for piece in re.split(
            r"\.\.\.|\[Errno 98\].*|\[\w+:uvicorn\]|/health|\b\d+ ?(?=s\b)|\bsupervisor-uvicorn\b", term
        )
    ]
    return [
        f"nothing says {piece!r} of {term!r}" for term, piece in pieces if len(piece) > 2 and piece not in all_words()
    ]


def wrong_files(text: str) -> list[str]:
    named = set(re.findall(r"(?<![\w/.])((?:conf|docs|tests)/[\w./*-]+[\w*])", text))
    return [f"there is no {path}" for path in sorted(named) if not list(ROOT.glob(path))]


def wrong_links(text: str, directory: Path) -> list[str]:
    wrong = [
        f"a link to {target}, which is not there"
        for target in re.findall(r"<([^<>`\s]+)>`_", text)
        if not target.startswith("https://") and not (directory / target).is_file()
    ]
    titles = {title.replace("``", "") for title, _ in re.findall(r"^(\S.*)\n([=-])\2{2,}$", text, re.MULTILINE)}
    inside = {" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`<>]+)`_", text)}
    return wrong + [f"a link to the section {title!r}, which is not there" for title in sorted(inside - titles)]


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "commands": wrong_commands,
    "flags": wrong_flags,
    "brakes": wrong_brakes,
    "events": wrong_events,
    "methods": wrong_methods,
    "files": wrong_files,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("check", CHECKS)
def test_what_a_page_names_exists(check: str, page: Path) -> None:
    assert CHECKS[check](page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert wrong_links(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("name", ["troubleshooting.rst", "security.rst", "containers.rst", "operating.rst"])
def test_findings_of_doctor(name: str) -> None:
    assert wrong_findings((ROOT / "docs" / name).read_text(encoding="utf-8")) == []


def test_the_words_by_which_a_reader_searches() -> None:
    text = (ROOT / "docs" / "troubleshooting.rst").read_text(encoding="utf-8")
    assert wrong_words(text) == []
    assert len(re.findall(r"^``.+``\n    \S", text, re.MULTILINE)) >= 15


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8")
    assert {page.name for page in DOCS} - {"index.rst"} == set(re.findall(r"<([^<>`\s]+)>`_", index))


def test_the_readme_has_the_listener_s_section() -> None:
    assert LISTENER_SECTION.strip() in "\n".join(literal_lines((ROOT / "README.rst").read_text(encoding="utf-8")))


def test_much_is_checked() -> None:
    """A reader that found nothing would be content with everything."""
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = [words for words, _ in typed(text)]
    assert sum(words.startswith("supervisor-uvicorn ") for words in commands) >= 60
    assert sum(words.startswith("supervisorctl uvicorn ") for words in commands) >= 10
    verbs = {words.split()[1] for words in commands if words.startswith("supervisor-uvicorn ")} - {"VERB"}
    assert verbs == set(our_verbs())


@pytest.mark.parametrize(
    ("check", "text", "said"),
    [
        (wrong_commands, "So::\n\n    $ supervisor-uvicorn explian web\n", "no verb explian"),
        (wrong_commands, "So::\n\n    $ supervisor-uvicorn restart\n", "refuses"),
        (wrong_commands, "So::\n\n    $ supervisorctl uvicorn doctor\n", "no verb doctor"),
        (wrong_commands, "So::\n\n    command=supervisor-uvicorn listen --exit-on fatl\n", "refuses"),
        (wrong_commands, "So::\n\n    command=supervisor-uvicorn serve --fd 0 --lifes on a:b  ; x\n", "--lifes"),
        (wrong_commands, "So::\n\n    kubectl exec x -- supervisor-uvicorn restart --for 3 web\n", "refuses"),
        (wrong_commands, 'So::\n\n    HEALTHCHECK \\\n      CMD ["supervisor-uvicorn", "health"]\n', "no verb health"),
        (wrong_commands, "So::\n\n    $ supervizord -n\n", "nobody knows"),
        (wrong_commands, "So::\n\n    python3 conf/demo/runn.py\n", "no conf/demo/runn.py"),
        (wrong_commands, "Type ``supervisor-uvicorn pause --fro 3 web``.", "refuses"),
        (wrong_commands, "Type ``history --jsn``.", "refuses"),
        (wrong_commands, "Type ``supervisorctl tial web``.", "no tial"),
        (wrong_flags, "It takes ``--exit-no fatal``.", "--exit-no"),
        (wrong_brakes, "It says ``held: budgett``.", "budgett"),
        (wrong_brakes, "Nobody is restarted\n\n``paused``  x\n\nStatus says unknown\n", "trial is missing"),
        (wrong_events, "It logs ``would-restrat`` then.", "would-restrat"),
        (wrong_events, "    2026-11-22T10:20:18.475+00:00  rol            web\n", "no event rol"),
        (wrong_events, "    07:35:41,646 INFO verdikt: web\n", "verdikt"),
        (wrong_methods, "``uvicorn.exitCode(number)``  x\n", "exitCode: 'number' here, 'code' in the code"),
        (wrong_methods, "``uvicorn.exitCode(code)``  x\n", "board: None here"),
        (wrong_findings, "It says ``tcp-45ms``.", "tcp-45ms"),
        (wrong_words, "``no listener replied within 10 s``\n    Why.\n", "no listener replied within"),
        (wrong_files, "See ``conf/containers`` and ``docs/x.rst``.", "conf/containers"),
        (lambda text: wrong_links(text, ROOT / "docs"), "See `it <nowhere.rst>`_.", "nowhere.rst"),
        (lambda text: wrong_links(text, ROOT / "docs"), "One\n---\n\nSee `Two`_.", "'Two'"),
    ],
)  # fmt: skip
def test_each_check_finds_a_mistake(check: Callable[[str], list[str]], text: str, said: str) -> None:
    assert [one for one in check(text) if said in one]
