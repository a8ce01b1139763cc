"""All metadata of the distribution; tool settings live in ``pyproject.toml``."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="supervisor-uvicorn",
    version="0.1.0",
    description="Finds, names and replaces the one hung or failing uvicorn worker behind supervisord's shared socket",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="the supervisor-uvicorn developers",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    packages=find_packages(include=["supervisor_uvicorn", "supervisor_uvicorn.*"]),
    package_data={"supervisor_uvicorn": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        # The process manager itself. 4.2.5 is what Debian 12 ships; it needs pkg_resources (setuptools < 82), which
        # we do not pin: a pin of ours would meddle with the user's own packages.
        "supervisor>=4.2.5",
        # The HTTP probe: its adapter, header and answer handling are requests' own. Imported only where `path` is set.
        "requests>=2.28",
    ],
    extras_require={
        # What Prometheus reads: the families, the text format, the file that is written whole or not at all. Imported
        # only where `metrics` or `metrics_textfile` is set. 0.22: a full disk leaves no temporary file behind.
        "metrics": ["prometheus-client>=0.22"],
        # Where is a hung worker? py-spy reads its Python stack from outside, without its help: nothing else does, and
        # the alternative (faulthandler's traceback) costs the worker its life. An extra, because it is a program of its
        # own that reads other processes' memory, and a security policy may forbid that. 0.4.0: Python 3.13.
        "explain": ["py-spy>=0.4.0"],
        # What the tests start as real processes, and what runs them. Bare uvicorn is enough for them; with
        # uvicorn[standard] they run on uvloop and httptools. PyYAML reads conf/prometheus' alert rules.
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "hypothesis",
            "uvicorn[standard]>=0.30",
            "prometheus-client>=0.22",
            "PyYAML",
        ],
        # httpok, only to compare the cost of our listener with the cost of its own.
        "bench": ["superlance"],
        # Coverage-guided fuzzing (tests/fuzz); without it the fuzzing goes on with plain mutations. Only where there is
        # a wheel: to build it takes clang and a libFuzzer.
        "fuzz": [
            "atheris>=3.0.0; python_version >= '3.11' and python_version < '3.14' and platform_machine == 'x86_64'",
        ],
        # What .ci/run checks with.
        "dev": ["ruff", "mypy", "types-requests", "types-PyYAML", "docutils", "build"],
    },
    entry_points={"console_scripts": ["supervisor-uvicorn = supervisor_uvicorn.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Monitoring",
        "Topic :: System :: Systems Administration",
    ],
)
