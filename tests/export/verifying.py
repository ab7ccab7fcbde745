"""Verification without most of its waiting: the processes that verify are forked off one that has imported torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicenas.export import verify

__all__ = ["ForkServer", "quick_verification"]

#: As alone as the process that it stands for: it has imported torch and nothing else.
_SERVER = """
import json, os, runpy, sys
import torch, torch.export

for line in sys.stdin:
    arguments, folder, errors = json.loads(line)
    if not (child := os.fork()):
        os.chdir(folder)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkServer:
    """Stands for the module ``subprocess`` in :mod:`dicenas.export.verify`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], *, cwd: Path, capture_output: bool, text: bool, check: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a fork of the server."""
        alone, arguments = list(command[:3]), list(command[3:])
        assert (alone, capture_output, text, check) == ([sys.executable, "-I", "-B"], True, True, False)
        if self._process is None:
            start = [*alone, "-c", _SERVER]
            self._process = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as errors:
            self._process.stdin.write(json.dumps([arguments, str(cwd), errors.name]) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(command, status, "", errors.read())

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.communicate()


@contextmanager
def quick_verification(server: ForkServer) -> Iterator[None]:
    """Verify in forks of the server, and measure latency, which nothing here is about, in one round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "subprocess", server)
        patch.setattr(verify, "_TIMED_ROUNDS", 1)
        yield
