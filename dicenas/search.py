"""Launching a search: from Python with a training function of one's own, or from a configuration."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import dicenas.search_spaces  # isort: skip  # noqa: F401  (before anything else of NNI)
import nni
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from dicenas.architecture import Architecture
from dicenas.config import LatencyConfig, SearchConfig
from dicenas.evaluation import Evaluate, Report, load_data, make_evaluator
from dicenas.export import FORMATS, export_network
from dicenas.nets import build
from dicenas.pareto import Direction
from dicenas.report import write_report
from dicenas.run_latency import latency_source, peak_memory
from dicenas.run_session import claim_folder, ended_well, logs_in, muted, open_storage, record_environment
from dicenas.runs import RESERVED_METRICS, RunFolder, TrialRecord
from dicenas.search_spaces import BackboneSpace, make_space
from dicenas.space import SpaceSpec
from dicenas.strategies import ArchitectureStudy, OptunaStrategy, Outcome, Proposal

__all__ = ["Evaluate", "Report", "SearchResult", "run_search", "search"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        run: The run folder.
        objectives: Direction of each objective.
        new_trials: Trials that this call added.
    """

    run: RunFolder
    objectives: Mapping[str, Direction]
    new_trials: int

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
    latency: LatencyConfig | Callable[[Architecture], float] | None = None,
    name: str = "search",
    out: str | Path = "runs",
) -> SearchResult:
    """Search a space with a training function of your own.

    The run folder ``out/name`` holds the trials; calling again with the same arguments goes on where the run
    stopped, and adds nothing to a run that has all its trials.

    Args:
        space: The space, or the name of a backbone for its usual space.
        evaluate: Called as ``evaluate(architecture, net, report)`` with a fresh network; returns metrics such as
            ``{"accuracy": 0.9}``. It may call ``report(step, metrics)`` on the way. A trial whose evaluation raises
            is recorded as failed, and the search goes on.
        objectives: Names of the objectives, or directions by name; the first one decides which trial is best.
        constraints: Upper bounds on ``macs``, ``params``, ``peak_memory_mb`` or ``latency_ms``, checked before
            anything is trained.
        trials: Trials of the whole run.
        sampler: ``"nsga2"``, ``"tpe"``, ``"gp"`` or ``"random"``.
        seed: Seed of the sampler and of the initial weights.
        latency: Where latency is measured, or a function that gives an architecture's latency in milliseconds. By
            default on the CPU, on one thread, at each architecture's own image size.
        name: Name of the run.
        out: Folder of the run folders.

    Raises:
        ValueError: An argument is wrong, a bound cannot be met, or the run folder belongs to another search.

    Example:
        >>> result = dicenas.search("mobilenetv2", my_training, constraints={"macs": 60e6}, trials=50)
        >>> result.best.architecture
    """
    if isinstance(space, BackboneSpace):
        space = space.spec
    elif isinstance(space, str):
        space = SpaceSpec(space)
    if trials < 1:
        raise ValueError(f"trials {trials} should be at least 1")
    source = LatencyConfig(input_size=None) if latency is None else latency
    described = source.to_dict() if isinstance(source, LatencyConfig) else "function"
    run = RunFolder(Path(out) / name)
    session = _Session(run, space, evaluate, source, objectives, constraints or {}, sampler, seed)
    settings = {
        "name": name,
        "space": space.to_dict(),
        "objectives": session.objectives,
        "constraints": dict(constraints or {}),
        "latency": described,
        "search": {"sampler": sampler, "trials": trials, "seed": seed},
    }
    return session.run(settings, trials)


def run_search(config: SearchConfig, out: str | Path = "runs") -> SearchResult:
    """Run the search of a configuration: trials, Pareto front, export and report in the folder ``out/name``.

    Args:
        config: The configuration.
        out: Folder of the run folders.

    Raises:
        ValueError: The data cannot be used, a bound cannot be met, or the run folder belongs to another search.
    """
    data = load_data(config.data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = RunFolder(Path(out) / config.name)
    evaluate = make_evaluator(config.evaluator, data, device, run=run)
    space, study = config.space_spec(data.num_classes), config.search
    session = _Session(
        run, space, evaluate, config.latency, config.objectives, config.constraints, study.sampler, study.seed
    )
    wanted, numbers = config.export.trial, run.trial_numbers()
    if isinstance(wanted, int) and wanted >= config.search.trials and wanted not in numbers:
        # Proposals that break a bound, or repeat one, take numbers too, so it need not be a mistake.
        logger.warning(
            "export.trial %d: a search of %d trials may never have it; best is always there",
            wanted,
            config.search.trials,
        )
    result = session.run(config.to_dict(), config.search.trials)
    if not result.front:
        logger.warning("no trial of %s is complete: there is nothing to export", run.path)
        return result
    trial = result.best if config.export.trial == "best" else run.read_trial(int(config.export.trial))
    # Compared with what is there: the last session may have been killed before it exported, or `export` has changed.
    if not _is_exported(run.export_path, trial.architecture, config.export.formats):
        export_network(
            run.load_network(trial.number),
            run.export_path,
            config.export.formats,
            metrics=trial.metrics,
            class_names=data.class_names,
            normalization=(data.mean, data.std),
            force=True,
        )
        write_report(run)
    return result


def _is_exported(folder: Path, architecture: Architecture, formats: Sequence[str]) -> bool:
    """Return whether a folder holds this network in these formats; an exported folder appears whole or not at all."""
    try:
        there = Architecture.load(folder / "architecture.json")
    except (OSError, ValueError):
        return False
    present = {name for name, file in FORMATS.items() if (folder / file).is_file()}
    return there == architecture and present == set(formats)


class _Session:
    """One call of a search over a run folder."""

    def __init__(
        self,
        run: RunFolder,
        space: SpaceSpec,
        evaluate: Evaluate,
        latency: LatencyConfig | Callable[[Architecture], float],
        objectives: Sequence[str] | Mapping[str, Direction],
        constraints: Mapping[str, float],
        sampler: str,
        seed: int,
    ) -> None:
        self.run_folder = run
        self._space = space
        self._evaluate = evaluate
        self._latency = latency_source(latency, space, run)
        self._peak_memory_mb = peak_memory(latency)
        self._seed = seed
        sources: dict[str, Callable[[Architecture], float]] = {
            "latency_ms": self._latency,
            "peak_memory_mb": self._peak_memory_mb,
        }
        self._arguments: dict[str, Any] = {
            "sampler": sampler,
            "objectives": objectives,
            "constraints": constraints,
            "costs": {name: cost for name, cost in sources.items() if name in {*objectives, *constraints}},
            "image_size": self._latency.input_size,
            "seed": seed,
        }
        # A study in memory checks all arguments before a file is written, and whether the bounds can be met together.
        arguments = dict(self._arguments)
        if "latency_ms" in arguments["costs"] and not self._latency.ready:
            # The table is built once the run folder is there; until then all other bounds are checked.
            arguments["costs"] = {**arguments["costs"], "latency_ms": lambda architecture: 0.0}
        with muted("optuna"):
            rehearsal = ArchitectureStudy(space, **arguments)
            if constraints and not run.config_path.is_file():
                rehearsal.ask()
        self.objectives = rehearsal.objectives
        self._weights: dict[str, Mapping[str, Tensor]] = {}

    def run(self, settings: Mapping[str, Any], trials: int) -> SearchResult:
        """Run the missing trials; ``settings`` is what the run folder keeps and a later call must agree with."""
        run = self.run_folder
        claim_folder(run, settings)
        with logs_in(run):
            study = self._open_study()
            before = study.finished
            logger.info("%d of %d trials are there", before, trials)
            if study.remaining(trials) or not ended_well(run):
                with record_environment(run):
                    if study.remaining(trials):
                        self._run_trials(study, trials)
                    self._complete_front()
                    run.write_front(self.objectives)
                write_report(run)
        return SearchResult(run, self.objectives, study.finished - before)

    def _open_study(self) -> ArchitectureStudy:
        """Return the run's study, told of every trial that is on disk: an earlier session may have been killed."""
        run = self.run_folder
        study = ArchitectureStudy(
            self._space,
            **self._arguments,
            storage=open_storage(run),
            study_name=run.path.name,
            on_trial_end=self._keep,
        )
        for trial in run.trials():
            study.replay(trial.number, trial.metrics, trial.error)
        return study

    def _run_trials(self, study: ArchitectureStudy, trials: int) -> None:
        self._strategy = OptunaStrategy.from_study(study, trials)
        space = RawFormatModelSpace.from_model(make_space(self._space), FunctionalEvaluator(self._run_trial))
        with tqdm(total=trials, initial=study.finished, desc=self.run_folder.path.name, unit="trial") as self._bar:
            self._strategy(space, SequentialExecutionEngine())
        if self._strategy.stop_reason is not None:
            logger.warning("the search ended before its %d trials: %s", trials, self._strategy.stop_reason)

    def _run_trial(self, model: BackboneSpace) -> None:
        """Evaluate the network that NNI gives; called by its engine."""
        architecture = model.architecture
        assert architecture is not None
        # The same network under a seed of its own: NNI built it in whatever state the generator was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            net = build(architecture)
        try:
            metrics = self._evaluate(architecture, net, self._report)
            if taken := RESERVED_METRICS.intersection(metrics):
                raise ValueError(f"metrics may not be called {', '.join(sorted(taken))}: a trial's file has these keys")
        except Exception:
            logger.exception("the evaluation of architecture %s failed", architecture.hash)
            raise
        self._weights[architecture.hash] = net.state_dict()
        # NNI wants a value under "default"; the strategy takes it for the first objective.
        costs = self._strategy.running[0].costs
        default = {**costs, **metrics}.get(next(iter(self.objectives)), math.nan)
        nni.report_final_result({"default": float(default), **metrics})

    def _report(self, step: int, metrics: Mapping[str, float]) -> None:
        first = next(iter(self.objectives))
        if first in metrics:
            nni.report_intermediate_result(float(metrics[first]))
        logger.info("step %d: %s", step, _shown(metrics))

    def _keep(self, proposal: Proposal, outcome: Outcome) -> None:
        """Write a trial to the run folder, before Optuna is told of it."""
        assert proposal.architecture is not None
        metrics = dict(outcome.metrics)
        if "latency_ms" in metrics:
            metrics |= self._latency.details(proposal.architecture)
        weights = self._weights.pop(proposal.hash, None)
        if weights is not None and outcome.error is None:
            self.run_folder.write_weights(proposal.number, weights)
        record = TrialRecord(proposal.number, proposal.architecture, outcome.state, metrics, outcome.error)
        self.run_folder.write_trial(record)
        shown = outcome.error or _shown({name: metrics[name] for name in self.objectives})
        logger.info("trial %d %s: %s", record.number, record.state, shown)
        self._bar.set_postfix_str(shown)
        self._bar.update()

    def _complete_front(self) -> None:
        """Add to the trials of the front what a report shows of them: memory, and latencies measured at the end."""
        extra: dict[str, Callable[[Architecture], float]] = {"peak_memory_mb": self._peak_memory_mb}
        if "latency_ms" in self.objectives:
            extra |= self._latency.front_metrics()
        for trial in self.run_folder.front(self.objectives):
            missing = {name: cost(trial.architecture) for name, cost in extra.items() if name not in trial.metrics}
            if missing:
                self.run_folder.write_trial(dataclasses.replace(trial, metrics={**trial.metrics, **missing}))


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
