"""A PostgreSQL server for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.loopback import free_port

__all__ = ["Postgres"]


def postgres_tool(name: str) -> str:
    """Path of a program of PostgreSQL; Debian keeps the server's outside of PATH."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    assert found is not None
    return str(Path(found).resolve())


class Postgres:
    """A PostgreSQL server on loopback, with a password, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._data = folder / "data"
        secret = folder / "secret"
        secret.write_text("s3cret")
        # The server refuses to run as root.
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
            secret.chmod(0o644)
        self._run("initdb", "--pgdata", str(self._data), "--auth=scram-sha-256", "--username=nas", f"--pwfile={secret}")
        self.start()

    def _run(self, tool: str, *arguments: str) -> None:
        # Its log keeps the pipe open for as long as the server runs.
        with (self._data.parent / "output.txt").open("ab") as output:
            subprocess.run(
                [*self._user, postgres_tool(tool), *arguments],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )

    def start(self) -> None:
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        log = self._data / "server.log"
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", str(log), "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._data))

    def url(self, database: str, password: str = "s3cret") -> str:
        return f"postgresql://nas:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def drop_connections(self) -> None:
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
