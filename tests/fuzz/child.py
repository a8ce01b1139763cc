"""One target in a process of its own: ``python -m fuzz.child guided|plain|distil TARGET ...``; the campaign starts it.

A process of its own, because libFuzzer ends the one that it runs in, because what hangs or crashes the interpreter ends
only that target, and because memory is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

RSS_LIMIT_MIB = 1024
HANG_S = 10


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["guided", "plain", "distil"])
    parser.add_argument("target")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="corpus/ (read and added to), and what was found")
    args = parser.parse_args(argv)
    {"guided": guided, "plain": plain, "distil": distil}[args.how](args.target, args.count, args.seed, args.work)
    return 0


def plain(name: str, count: int, seed: int, work: Path) -> None:
    from fuzz import plain as engine
    from fuzz.targets import TARGETS

    outcome = engine.run(TARGETS[name], count, seed, _inputs(work))
    failures = [failure.as_object() for failure in outcome.failures.found.values()]
    told = {key: value for key, value in vars(outcome).items() if key not in ("failures", "worst_input")}
    _write(work / "plain.json", {**told, "worst_input": repr(outcome.worst_input), "failures": failures})


def guided(name: str, count: int, seed: int, work: Path) -> None:
    """Never returns: libFuzzer takes the process, and it is ended behind the last input."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["supervisor_uvicorn"]):
        target = importlib.import_module("fuzz.targets").TARGETS[name]
    from fuzz.plain import Failures

    corpus = work / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.corpus()):
        (corpus / f"seed-{number:04d}").write_bytes(data)
    words = work / "tokens.txt"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens if len(token) <= 64), "ascii")
    failures, inputs, began = Failures(), 0, time.perf_counter()

    with target.session() as check:

        def one(data: bytes) -> None:
            nonlocal inputs
            inputs += 1
            try:
                check(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
                failures.add(error, data)
            if inputs >= count:
                told = [failure.as_object() for failure in failures.found.values()]
                took_s = time.perf_counter() - began
                _write(work / "guided.json", {"inputs": inputs, "took_s": took_s, "failures": told})
                os._exit(0)

        flags = [
            f"-seed={seed}", f"-max_len={target.most_bytes}", f"-timeout={HANG_S}", f"-rss_limit_mb={RSS_LIMIT_MIB}",
            f"-artifact_prefix={work}/", *([f"-dict={words}"] if target.tokens else []),
            "-report_slow_units=1000", "-reload=0",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
        atheris.Fuzz()


def distil(name: str, count: int, seed: int, work: Path) -> None:
    """The target's corpus in the checkout is written anew."""
    from fuzz.distil import distilled
    from fuzz.target import keep
    from fuzz.targets import TARGETS

    target = TARGETS[name]
    kept = distilled(target, [*target.corpus(), *_inputs(work)])
    keep(name, kept)
    _write(work / "distil.json", {"kept": len(kept)})


def _inputs(work: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((work / "corpus").glob("*"))]


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _write(file: Path, found: object) -> None:
    file.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
