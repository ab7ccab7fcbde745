"""What a command works on: a trial of a run, an architecture file, or a network by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicenas.architecture import Architecture
from dicenas.nets import list_nets, net_architecture
from dicenas.paper import load_row
from dicenas.report.summary import RunSummary
from dicenas.runs import RunFolder, TrialRecord
from dicenas.spelling import did_you_mean

__all__ = ["Source", "read_source"]


@dataclass(frozen=True)
class Source:
    """A network that a command works on.

    Attributes:
        name: What to call it.
        architecture: The architecture, at the size at which it was trained.
        summary: The run that it comes from, None where it comes from none.
        trial: The trial that it comes from.
    """

    name: str
    architecture: Architecture
    summary: RunSummary | None = None
    trial: TrialRecord | None = None


def read_source(source: str, trial: str | int | None = None) -> Source:
    """Find a network.

    Args:
        source: A run folder; an architecture file or a folder that holds ``architecture.json``; the name of a
            published network; or a file of ``configs/paper``, the row of a table.
        trial: ``"best"`` or the number of a trial, where ``source`` is a run folder; the best by default.

    Raises:
        FileNotFoundError: There is no such file, folder or trial.
        ValueError: It holds no network, ``trial`` does not fit, or a name is unknown.
    """
    path = Path(source)
    run = RunFolder(path)
    if run.config_path.is_file():
        summary = RunSummary.read(run)
        record = run.read_trial(trial) if isinstance(trial, int) else run.best(summary.objectives)
        return Source(f"trial {record.number} of {path}", record.architecture, summary, record)
    if trial is not None:
        raise ValueError(f"--trial is for run folders, and {source} is none")
    if path.is_dir():
        file = path / "architecture.json"
        if not file.is_file():
            raise FileNotFoundError(f"{source} is neither a run folder (no config.yaml) nor holds an architecture.json")
        return Source(source, Architecture.load(file))
    if path.is_file() and path.suffix == ".yaml":
        return Source(path.stem, load_row(path).architecture)
    if path.is_file():
        return Source(source, Architecture.load(path))
    if source in list_nets():
        return Source(source, net_architecture(source))
    raise FileNotFoundError(
        f"{source!r} is no run folder, no architecture file and no network{did_you_mean(source, list_nets())} "
        f"(networks: {', '.join(list_nets())})"
    )
