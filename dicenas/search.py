"""Launching a search: from Python with a training function of one's own, or from a configuration."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dicenas.architecture import Architecture
from dicenas.config import LatencyConfig, SearchConfig, parse_config
from dicenas.config.schema import plain
from dicenas.cost.device import resolve_device
from dicenas.evaluation import Data, DataConfig, Evaluate, Evaluator, Report, load_data, make_evaluator
from dicenas.export import FORMATS, check_formats, export_network
from dicenas.final import FinalTraining, FinalTrial
from dicenas.pareto import Direction
from dicenas.report import architecture_svg, write_report
from dicenas.run_session import claim_folder, lock_folder, logs_in
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec
from dicenas.strategies import SuccessiveHalving, named_architecture
from dicenas.workers import Limits, Rungs, Session, Task, Workers, open_storage, read_manifest, spawned

if TYPE_CHECKING:
    from dicenas.search_spaces import BackboneSpace

__all__ = ["Evaluate", "Report", "SearchResult", "join_search", "run_search", "search"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        run: The run folder.
        objectives: Direction of each objective.
        new_trials: Trials that this call added.
        final: Trials that were to be trained for real, see :class:`dicenas.final.FinalTraining`.
    """

    run: RunFolder
    objectives: Mapping[str, Direction]
    new_trials: int
    final: Sequence[FinalTrial] = ()

    @property
    def front(self) -> list[TrialRecord]:
        """The Pareto front, best first objective first."""
        return self.run.front(self.objectives)

    @property
    def best(self) -> TrialRecord:
        """The trial that is best in the first objective.

        Raises:
            ValueError: No trial is complete.
        """
        return self.run.best(self.objectives)


def search(
    space: SpaceSpec | BackboneSpace | str,
    evaluate: Evaluate,
    objectives: Sequence[str] | Mapping[str, Direction] = ("accuracy", "latency_ms"),
    constraints: Mapping[str, float] | None = None,
    trials: int = 100,
    *,
    sampler: str = "nsga2",
    seed: int = 0,
    first: Sequence[Architecture | str] = (),
    first_suggestions: int = 0,
    rungs: Sequence[int] = (),
    reduction_factor: int = 3,
    latency: LatencyConfig | Callable[[Architecture], float] | None = None,
    time_limit_s: float | None = None,
    memory_limit_mb: float | None = None,
    workers: int = 1,
    storage: str | None = None,
    tensorboard: bool = False,
    name: str = "search",
    out: str | Path = "runs",
) -> SearchResult:
    """Search a space with a training function of your own, or with an :class:`~dicenas.evaluation.Evaluator`.

    The run folder ``out/name`` holds the trials; calling again with the same arguments goes on where the run
    stopped, and adds nothing to a run that has all its trials.

    With ``workers``, ``time_limit_s`` or ``memory_limit_mb``, evaluations run in copies of this process (Linux and
    macOS): what they leave in variables stays there, and ``evaluate`` must not have used CUDA before.

    Args:
        space: The space, or the name of a backbone for its usual space.
        evaluate: Called as ``evaluate(architecture, net, report)`` with a fresh network; returns metrics such as
            ``{"accuracy": 0.9}``. It may call ``report(step, metrics)`` on the way. A trial whose evaluation raises
            is recorded as failed, and the search goes on.
        objectives: Names of the objectives, or directions by name; the first one decides which trial is best.
        constraints: Upper bounds on ``macs``, ``params``, ``peak_memory_mb`` or ``latency_ms``, checked before
            anything is trained.
        trials: Trials of the whole run.
        sampler: One of :data:`dicenas.strategies.SAMPLERS`.
        seed: Seed of the sampler and of the initial weights.
        first: Architectures that are evaluated first: points of the space, or names of published networks.
        first_suggestions: How many of the suggestions of an :class:`~dicenas.evaluation.Evaluator` are evaluated
            after these.
        rungs: Steps at which only one of ``reduction_factor`` trials goes on (successive halving); ``evaluate`` must
            report the objectives there, and let pass what ``report`` raises. What was reported last becomes the
            result of a trial that ends at a rung.
        reduction_factor: See ``rungs``.
        latency: Where latency is measured, or a function that gives an architecture's latency in milliseconds. By
            default on the CPU, on one thread, at each architecture's own image size.
        time_limit_s: Seconds after which an evaluation has failed, even one that hangs.
        memory_limit_mb: Megabytes that the process of an evaluation may hold; with workers or another limit, nine
            tenths of the machine's by default.
        workers: Processes that evaluate side by side.
        storage: URL of a database for the study, which workers on other machines may join with the same call; by
            default a file in the run folder.
        tensorboard: Whether scalars for TensorBoard are written, to ``tensorboard`` in the run folder.
        name: Name of the run.
        out: Folder of the run folders.

    Raises:
        ValueError: An argument is wrong, a bound cannot be met, or the run folder belongs to another search.

    Example:
        >>> result = dicenas.search("mobilenetv2", my_training, constraints={"macs": 60e6}, trials=50)
        >>> result.best.architecture
    """
    spec = _spec(space)
    if trials < 1:
        raise ValueError(f"trials {trials} should be at least 1")
    source = LatencyConfig(input_size=None) if latency is None else latency
    task = Task(
        spec,
        evaluate,
        source,
        objectives,
        constraints or {},
        sampler,
        seed,
        _first(spec, first),
        first_suggestions,
        _rungs(rungs, reduction_factor),
    )
    run = RunFolder(Path(out) / name)
    limits = Limits(time_limit_s, memory_limit_mb)
    session = Session(run, task, Workers(workers, limits, storage=storage, tensorboard=tensorboard))
    settings = {
        "name": name,
        "space": spec.to_dict(),
        "objectives": session.objectives,
        "constraints": dict(constraints or {}),
        "latency": source.to_dict() if isinstance(source, LatencyConfig) else "function",
        "search": {"sampler": sampler, "trials": trials, "seed": seed},
    }
    if isinstance(evaluate, Evaluator) or rungs:
        kind = {"kind": type(evaluate).__name__} if isinstance(evaluate, Evaluator) else {}
        settings["evaluator"] = {
            **kind,
            **({"rungs": list(rungs), "reduction_factor": reduction_factor} if rungs else {}),
        }
    return SearchResult(run, session.objectives, session.run(plain(settings), trials))


def _spec(space: SpaceSpec | BackboneSpace | str) -> SpaceSpec:
    if isinstance(space, str):
        return SpaceSpec(space)
    return space if isinstance(space, SpaceSpec) else space.spec


def _first(space: SpaceSpec, networks: Sequence[Architecture | str]) -> list[Architecture]:
    return [named_architecture(space, network) if isinstance(network, str) else network for network in networks]


def _rungs(rungs: Sequence[int], reduction_factor: int) -> Callable[[Mapping[str, Direction]], Rungs] | None:
    if not rungs:
        return None

    def make(objectives: Mapping[str, Direction]) -> Rungs:
        return SuccessiveHalving(tuple(rungs), reduction_factor, objectives)

    make({"accuracy": "maximize"})  # a mistake in the rungs is told at once
    return make


def run_search(
    config: SearchConfig,
    out: str | Path = "runs",
    *,
    workers: int = 1,
    storage: str | None = None,
    proxy: str | None = None,
    tensorboard: bool = False,
) -> SearchResult:
    """Run the search of a configuration: trials, Pareto front, export and report in the folder ``out/name``.

    With a ``final:`` section, the best architectures are then trained for real, by this process alone.

    Args:
        config: The configuration.
        out: Folder of the run folders.
        workers: Processes that evaluate side by side on this machine, each on a GPU where there are some, else on
            its share of the cores.
        storage: URL of a database for the study, which ``dicenas worker`` joins from any machine; by default a file
            in the run folder.
        proxy: ``HOST:PORT`` of Optuna's gRPC proxy in front of that database.
        tensorboard: Whether scalars for TensorBoard are written, to ``tensorboard`` in the run folder.

    Raises:
        ValueError: The data cannot be used, be it that of the final training, a bound cannot be met, or the run folder
            belongs to another search.
    """
    check_formats(config.export.formats)  # a missing package shows now, not at the end
    run = RunFolder(Path(out) / config.name)
    crew = Workers(workers, Limits(config.limits.time_limit_s), None, storage, proxy, tensorboard)

    def start(index: int, descriptor: int) -> Any:
        return _start_worker(run, crew, index, descriptor)

    data = _data(config)
    session, evaluate = _session(config, data, run, dataclasses.replace(crew, start=start), _device())
    numbers = run.trial_numbers()
    for key, wanted in (("export.trial", config.export.trial), ("final.train", config.final and config.final.train)):
        if isinstance(wanted, int) and wanted >= config.search.trials and wanted not in numbers:
            # Proposals that break a bound, or repeat one, take numbers too, so it need not be a mistake.
            logger.warning(
                "%s %d: a search of %d trials may never have it; best is always there",
                key,
                wanted,
                config.search.trials,
            )
    final = _final(config, run, session.objectives)
    if final is not None:
        space = config.space_spec(None if data is None else data.num_classes)
        final.check(space)
    result = SearchResult(run, session.objectives, session.run(config.to_dict(), config.search.trials))
    if not result.front:
        logger.warning("no trial of %s is complete: there is nothing to export", run.path)
        return result
    trial = result.best if config.export.trial == "best" else run.read_trial(int(config.export.trial))
    if data is not None and evaluate.trains_network:
        _export(run, trial, config, data)
    elif final is None:
        logger.warning(
            "nothing is exported: evaluations of this kind leave no weights of their own; train %s first",
            run.trial_path(trial.number) / "architecture.json",
        )
    if final is not None:
        with lock_folder(run), logs_in(run):
            result = dataclasses.replace(result, final=final.run(lambda: write_report(run)))
            write_report(run)
    return result


def join_search(
    storage: str,
    study: str,
    out: str | Path = "runs",
    *,
    device: str | None = None,
    proxy: str | None = None,
    most: int | None = None,
    index: int | None = None,
    descriptor: int | None = None,
) -> str | None:
    """Work on the search of a configuration that another process started, on this machine or another.

    Results go to the run folder ``out/study``: the same as the others', where the file system is shared, so that
    weights are found there at the end.

    Args:
        storage: URL of the study's database.
        study: Name of the study, which is that of the run.
        out: Folder of the run folders.
        device: Where networks are trained, ``cuda:1`` say; by default a GPU if there is one.
        proxy: ``HOST:PORT`` of Optuna's gRPC proxy in front of the database.
        most: Trials that this worker evaluates at most.
        index: Place among the workers; by default as many as came before.
        descriptor: File descriptor of a pipe to the process that started this one, and that it ends with.

    Returns:
        Why it ended before the study had its trials, ``None`` where it did not.

    Raises:
        ValueError: There is no such study, or it was made by other code, or for another search than this folder's; or
            no such device.
    """
    # Here, since an evaluation that finds no device would be taken for one that failed.
    device = _device() if device is None else str(resolve_device(device))
    settings = read_manifest(open_storage(storage), storage, study)
    if "export" not in settings:
        raise ValueError(
            f"study {study!r} was started from Python, with a function that this process does not have: "
            "call dicenas.search there too, with the same arguments and storage"
        )
    # The final training is that of the process that searches; its data need not be on this machine.
    own = {key: value for key, value in settings.items() if key != "final"}
    config = parse_config(own, f"the configuration in study {study!r}")
    run = RunFolder(Path(out) / study)
    crew = Workers(storage=storage, proxy=proxy)
    session, _ = _session(config, _data(config), run, crew, device)
    if not run.config_path.is_file():
        claim_folder(run, settings)
    parent = None if descriptor is None else os.getppid()
    return session.work(settings, config.search.trials, index, descriptor, parent, most)


def _data(config: SearchConfig) -> Data | None:
    return None if config.data is None else load_data(config.data)


def _session(
    config: SearchConfig, data: Data | None, run: RunFolder, workers: Workers, device: str
) -> tuple[Session, Evaluator]:
    space = config.space_spec(None if data is None else data.num_classes)
    evaluate = make_evaluator(config.evaluator, space, data, device, run=run, proxy=config.proxy)
    task = Task(
        space,
        evaluate,
        config.latency,
        config.objectives,
        config.constraints,
        config.search.sampler,
        config.search.seed,
        _first(space, config.search.first),
        config.search.first_from_proxy,
        _rungs(config.limits.rungs, config.limits.reduction_factor),
        {} if data is None else _found(data),
    )
    return Session(run, task, workers), evaluate


def _found(data: Data) -> dict[str, Any]:
    """Return what tells other data from this, as far as a glance does."""
    return {
        "train images": len(data.train),
        "val images": len(data.val),
        "classes": list(data.class_names),
        "mean": [round(mean, 3) for mean in data.mean],
    }


def _final(config: SearchConfig, run: RunFolder, objectives: Mapping[str, Direction]) -> FinalTraining | None:
    if config.final is None:
        return None
    data: str | DataConfig | None = config.final.data
    if data is None:
        assert config.data is not None
        # Trials may see some of the images, for they are many.
        data = dataclasses.replace(config.data, train_limit=None, val_limit=None)
    threads = getattr(config.evaluator, "threads", None)
    return FinalTraining(run, config.final, data, objectives, config.export.formats, threads, architecture_svg)


def _start_worker(run: RunFolder, workers: Workers, index: int, descriptor: int) -> Any:
    """Start a process of ``dicenas worker`` on a device, or a share of the cores, of its own."""
    gpus = torch.cuda.device_count()
    command = [sys.executable, "-m", "dicenas", "worker", "--study", run.path.name, "--out", str(run.path.parent)]
    command += ["--index", str(index), "--descriptor", str(descriptor)]
    command += ["--device", f"cuda:{index % gpus}"] if gpus else []
    command += [] if workers.proxy is None else ["--proxy", workers.proxy]
    # Not among the arguments, which everybody on the machine can read: it may hold a password.
    environment = {"DICENAS_STORAGE": workers.storage or run.storage_url}
    if not gpus and workers.count > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers.count))
    return spawned(command, descriptor, environment, run.log_path)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _export(run: RunFolder, trial: TrialRecord, config: SearchConfig, data: Data) -> None:
    # Compared with what is there: the last session may have been killed before it exported, or `export` has changed.
    if _is_exported(run.export_path, trial.architecture, config.export.formats):
        return
    export_network(
        run.load_network(trial.number),
        run.export_path,
        config.export.formats,
        metrics=trial.metrics,
        class_names=data.class_names,
        normalization=(data.mean, data.std),
        drawing=architecture_svg(trial.architecture),
        force=True,
    )
    write_report(run)


def _is_exported(folder: Path, architecture: Architecture, formats: Sequence[str]) -> bool:
    """Return whether a folder holds this network in these formats; an exported folder appears whole or not at all."""
    try:
        there = Architecture.load(folder / "architecture.json")
    except (OSError, ValueError):
        return False
    present = {name for name, file in FORMATS.items() if (folder / file).is_file()}
    return there == architecture and present == set(formats)
