"""Database servers and a small disk for the tests of what survives."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.reliability.mariadb import MariaDB
from tests.reliability.postgres import Postgres
from tests.reliability.tally import COUNTED, Tally

_PROPERTY = "survived"
_Server = TypeVar("_Server", Postgres, MariaDB)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Adds to the counts that are printed when all tests are done."""

    def add(**counts: int) -> None:
        assert counts.keys() <= COUNTED.keys()
        record_property(_PROPERTY, counts)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, counts in getattr(report, "user_properties", ()):
                if name == _PROPERTY and report.when == "call":
                    total.update(counts)
    if total:
        terminalreporter.section("what survived")
        for name, said in COUNTED.items():
            terminalreporter.write_line(f"{said}: {total[name]}")


def running(kind: Callable[[Path], _Server]) -> Iterator[_Server]:
    """A server of a kind, until the tests are done."""
    # Not in pytest's folder, which nobody else may look into: a server may run as a user of its own.
    with tempfile.TemporaryDirectory(prefix="dicenas-database-") as folder:
        server = kind(Path(folder))
        yield server
        server.stop()


def empty_database(server: Postgres | MariaDB) -> str:
    """URL of a new database."""
    name = f"nas_{time.monotonic_ns()}"
    server.execute(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server."""
    yield from running(Postgres)


@pytest.fixture
def database(postgres: Postgres) -> str:
    """URL of an empty database."""
    return empty_database(postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running MariaDB server."""
    yield from running(MariaDB)


@pytest.fixture
def mysql_database(mariadb: MariaDB) -> str:
    """URL of an empty database that MySQL's driver speaks to."""
    return empty_database(mariadb)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
