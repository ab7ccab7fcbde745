"""A MariaDB server for tests, which speaks as MySQL does."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from pathlib import Path

from tests.loopback import free_port

__all__ = ["MariaDB"]

_PATIENCE_S = 60.0


def mariadb_tool(name: str) -> str:
    """Path of a program of MariaDB; Debian keeps the server among what is for root."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    assert found is not None
    return found


class MariaDB:
    """A MariaDB server on loopback, with a password, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        # Told by name, the server takes root as it takes others.
        self._arguments = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={folder / 'data'}"]
        assert self._run("mariadb-install-db", "--skip-test-db").wait() == 0
        (folder / "first.sql").write_text(
            "CREATE USER nas@'127.0.0.1' IDENTIFIED BY 's3cret';\nGRANT ALL ON *.* TO nas@'127.0.0.1';\n"
        )
        self.start(f"--init-file={folder / 'first.sql'}")

    def _run(self, tool: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output.txt").open("ab") as output:
            return subprocess.Popen([mariadb_tool(tool), *self._arguments, *arguments], stdout=output, stderr=output)

    def start(self, *arguments: str) -> None:
        import pymysql

        self._server = self._run(
            "mariadbd",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self._folder / 'socket'}",
            f"--pid-file={self._folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-log-file-size=8M",
            *arguments,
        )
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except pymysql.err.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()

    def url(self, database: str) -> str:
        return f"mysql+pymysql://nas:s3cret@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        import pymysql

        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="nas", password="s3cret") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
