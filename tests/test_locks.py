from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dicenas.locks import LOCK, FolderInUseError, lock_folder


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    folder, mark = tmp_path / "folder", tmp_path / "folder" / "mark"
    with lock_folder(folder, mark, "wait"):
        mark.touch()
        with pytest.raises(FolderInUseError, match=f"is in use by process {os.getpid()} on .*; wait"):
            lock_folder(folder, mark, "wait").__enter__()
    with lock_folder(folder, mark, "wait"):
        assert {path.name for path in folder.iterdir()} == {LOCK, "mark"}


def test_a_folder_that_nothing_came_into_goes_again(tmp_path: Path) -> None:
    folder, mark = tmp_path / "new", tmp_path / "new" / "mark"
    with lock_folder(folder, mark, ""), pytest.raises(FolderInUseError):
        lock_folder(folder, mark, "").__enter__()
    assert not folder.exists()
    # Nor is a lock left in a folder of somebody else.
    folder.mkdir()
    (folder / "other").touch()
    with lock_folder(folder, mark, ""):
        assert (folder / LOCK).exists()
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_a_refused_one_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with lock_folder(tmp_path, mark, ""):
        for _ in range(2):
            with pytest.raises(FolderInUseError):
                lock_folder(tmp_path, mark, "").__enter__()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    script = (
        "import sys, time; from pathlib import Path; from dicenas.locks import lock_folder\n"
        "with lock_folder(Path(sys.argv[1]), Path(sys.argv[1], 'mark'), ''):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(FolderInUseError, match=f"process {process.pid} "):
            lock_folder(tmp_path, mark, "").__enter__()
        process.kill()
    start = time.monotonic()
    with lock_folder(tmp_path, mark, "", patience_s=60):
        assert time.monotonic() - start < 60
