"""The command for machines with a GPU, up to the first thing that needs one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Step

PYTHON = sys.executable
ABOUT = {"device": "a GPU", "compute_capability": "9.0"}


def python(source: str) -> tuple[str, ...]:
    return (PYTHON, "-c", source)


def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--out", str(tmp_path / "results")])
    assert stopped.value.code == 2
    assert "finds no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)], lambda: ABOUT)
    assert "not empty" in capsys.readouterr().err


def test_steps_that_fail_or_take_too_long_do_not_stop_the_others(tmp_path: Path) -> None:
    steps = [
        Step("first", python("print('hello')"), 1),
        Step("second", python("raise ValueError('no')"), 1),
        Step("third", python("import time; print('begun', flush=True); time.sleep(60)"), 0.05),
        Step("fourth", python(f"open({str(tmp_path / 'fourth')!r}, 'w')"), 1),
    ]
    outcomes = gpu.run_all(steps, tmp_path, 5, ABOUT)
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "out of time", "done"]
    assert "ValueError: no" in outcomes[1].printed
    assert outcomes[0].printed == "hello\n"
    assert (tmp_path / "fourth").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["machine"] == ABOUT
    assert [step["name"] for step in summary["steps"]] == ["first", "second", "third", "fourth"]


def test_what_the_minutes_do_not_hold_is_left_out(tmp_path: Path) -> None:
    outcomes = gpu.run_all([Step("first", python(""), 1)] * 2, tmp_path, 0, ABOUT)
    assert [outcome.state for outcome in outcomes] == ["left out", "left out"]
    assert len(json.loads((tmp_path / "summary.json").read_text())["steps"]) == 2


def test_exit_code_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DICENAS_CUDA_ARCHS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    check = "import os; raise SystemExit(os.environ['DICENAS_CUDA_ARCHS'] != '90' or not os.environ['XDG_CACHE_HOME'])"
    monkeypatch.setattr(gpu, "plan", lambda out: [Step("check", python(check), 1)])
    assert gpu.main(["--out", str(tmp_path / "a")], lambda: ABOUT) == 0
    monkeypatch.setattr(gpu, "plan", lambda out: [Step("fails", python("raise SystemExit(3)"), 1)])
    assert gpu.main(["--out", str(tmp_path / "b")], lambda: ABOUT) == 1


def test_the_plan_is_made_of_commands_that_exist(tmp_path: Path) -> None:
    """Each command is understood as far as its own parsing goes; eight files are the most that come back."""
    steps = gpu.plan(tmp_path)
    files = {argument for step in steps for argument in step.command if argument.endswith(".json")}
    files |= {"summary.json", *(f"latency-cuda-{name}" for name in ("table.json", "check.json", "check.png"))}
    assert len(files) <= 8
    for step in steps:
        if any(argument.endswith(("kernels.py", "networks.py")) for argument in step.command):
            script = Path(step.command[1])
            source = f"import runpy, sys; sys.path.insert(0, {str(script.parent)!r})\n" + (
                f"module = runpy.run_path({str(script)!r}); sys.argv[1:] = {list(step.command[2:])!r}\n"
                "class Parsed(Exception): pass\n"
                "def parsed(): raise Parsed\n"
                "main = module['main']; main.__globals__['keep_memory'] = parsed\n"
                "try: main()\nexcept Parsed: pass\nelse: raise SystemExit(1)\n"
            )
            done = subprocess.run([PYTHON, "-c", source], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        elif step.name == "latency table":
            continue  # run for real, on the CPU, in tests/benchmarks/test_latency.py
        else:
            assert step.command[:2] == (PYTHON, "-m")
            assert step.command[2] in ("dicenas", "pytest")
