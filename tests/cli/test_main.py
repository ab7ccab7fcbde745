from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dicenas
from dicenas.cli import main
from dicenas.runs import RunFolder

COMMANDS = ("search", "report", "export", "profile", "ops", "spaces", "kernels")


def run_process(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_and_gives_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  dicenas " + command in text
    assert "--debug" in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_help_does_not_load_torch() -> None:
    done = run_process(
        "import sys\nfrom dicenas.cli import main\n"
        "try:\n    main(['search', '--help'])\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    assert done.stderr.split() == ["False"]


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dicenas", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"dicenas {dicenas.__version__}\n"


def test_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_an_unknown_command(refused: Callable[..., str]) -> None:
    assert "invalid choice: 'serach'" in refused("serach")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        main(["report", str(tmp_path), "--debug"])


def test_ctrl_c_says_how_to_go_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dicenas.config

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dicenas.config, "load_config", interrupted)
    assert main(["search", str(config)]) == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == ["dicenas search: interrupted; finished trials are kept, the same command goes on with the run"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from dicenas.cli import main; main([\"spaces\"])' | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_a_missing_library_is_named(run: RunFolder) -> None:
    done = run_process(
        "import sys\nsys.modules['yaml'] = None\nfrom dicenas.cli import main\n"
        f"print(main(['report', {str(run.path)!r}]))"
    )
    assert done.stdout == "2\n"
    assert done.stderr == (
        "dicenas report: error: yaml is not installed; pip install 'dicenas[all]' brings what all commands need\n"
    )
