"""Atomic writes, and checksums of what is written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.files import (
    SUMS,
    atomic_write_bytes,
    atomic_write_text,
    check_sum,
    read_json,
    write_json,
    write_sums,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    atomic_write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    atomic_write_bytes(str(path), b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="no space left"):
        atomic_write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_text_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(tmp_path / "file.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / "none" / "file.txt", "text")


def test_permissions_are_those_of_any_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.touch()
    atomic_write_text(tmp_path / "file.txt", "text")
    mode = stat.S_IMODE((tmp_path / "file.txt").stat().st_mode)
    assert mode == stat.S_IMODE(plain.stat().st_mode)


# Checksums

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(content=st.dictionaries(st.text().filter(lambda key: key != "sha256"), PLAIN, max_size=4), data=st.data())
def test_json_is_read_as_it_was_written_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, content)
    whole = path.read_bytes()
    assert read_json(path) == content
    assert json.loads(whole) == {**content, "sha256": json.loads(whole)["sha256"]}
    end = whole.index(b'"sha256": "')  # behind it the key is another, and the content the same
    place = data.draw(st.integers(0, end - 1))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :])
    with contextlib.suppress(ValueError):
        assert read_json(path) == content
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(ValueError, match="is damaged"):
        read_json(path)


def test_json_without_a_checksum_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"by": "hand"}', encoding="utf-8")
    assert read_json(path) == {"by": "hand"}
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no mapping"):
        read_json(path)


def test_the_checksums_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a file", "Größe", "inner/b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    write_sums(tmp_path)
    sums = tmp_path / SUMS
    assert [line[66:] for line in sums.read_text(encoding="utf-8").splitlines()] == ["Größe", "a file", "inner/b"]
    if (tool := shutil.which("sha256sum")) is not None:
        subprocess.run([tool, "--check", "--strict", SUMS], cwd=tmp_path, check=True, capture_output=True)
    for name in ("a file", "Größe"):
        check_sum(tmp_path / name)
        (tmp_path / name).write_text("other", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name} is damaged: its checksum is not that in .*SHA256SUMS"):
            check_sum(tmp_path / name)
    (tmp_path / "new").touch()
    check_sum(tmp_path / "new")  # added later
    sums.unlink()
    check_sum(tmp_path / "a file")  # written before there were checksums
