"""The NNI strategy that explores a model space through an :class:`~dicenas.strategies.ArchitectureStudy`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import dicenas.search_spaces._nni  # isort: skip  # noqa: F401  (before anything else of NNI)
from nni.nas.execution import ExecutionEngine, SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, ModelEventType, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus, RawFormatModelSpace, SimplifiedModelSpace
from nni.nas.strategy.base import Strategy
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from dicenas.pareto import Direction
from dicenas.search_spaces import BackboneSpace
from dicenas.space import SpaceSpec
from dicenas.strategies.costs import CostFunction
from dicenas.strategies.mutables import Parameter, parameter
from dicenas.strategies.objectives import parse_objectives
from dicenas.strategies.samplers import check_sampler
from dicenas.strategies.spaces import SpaceExhaustedError
from dicenas.strategies.study import ArchitectureStudy
from dicenas.strategies.trials import Outcome, Proposal

__all__ = ["OptunaStrategy"]

_logger = logging.getLogger(__name__)

# NNI's local training service learns that a process ended before it has read the metrics that the process wrote, and
# goes on reading them for five seconds.
_METRICS_MAY_LAG_S = 10.0


class OptunaStrategy(Strategy):
    """Explores an NNI model space with an Optuna sampler, for one or several objectives.

    It runs in a ``NasExperiment`` on the sequential and the training-service engine, or by itself::

        strategy = OptunaStrategy("tpe", objectives=("accuracy", "macs"), constraints={"macs": 60e6})
        strategy(SimplifiedModelSpace.from_model(space, evaluator), SequentialExecutionEngine(max_model_count=20))
        strategy.study.best_trials

    The evaluator reports ``nni.report_final_result(value)`` for the first objective, or a dictionary with
    ``"default"`` for the first objective and other metrics by name. On the spaces of ``dicenas.search_spaces`` costs
    that are not reported are computed before the evaluation; on any other space the evaluator reports every
    objective, and constraints cannot be used.

    An evaluation that raises, or reports NaN, fails its trial and the search goes on, whatever the engine's
    ``continue_on_failure`` says. With ``continue_on_failure=False`` the trial keeps the reason; with ``True`` NNI
    writes it to its log alone.

    Args:
        sampler: One of :data:`~dicenas.strategies.SAMPLERS`.
        objectives: Names of the objectives, or directions by name.
        directions: Directions of the objectives; not needed for well-known metrics.
        constraints: Upper bounds by name of cost, checked before anything is trained.
        storage: Optuna storage or its URL; in memory by default.
        study_name: Name of the study in the storage.
        seed: Seed of the sampler.
        costs: Functions of an architecture by name of cost, such as ``latency_ms``.
        image_size: Image size at which ``macs``, ``params`` and ``peak_memory_mb`` are counted.
        trials: Total of the study's trials, those of earlier sessions included; by default the engine's budget
            decides.
        on_trial_end: Called with each proposal and its outcome before Optuna is told.

    Attributes:
        stop_reason: Why the search ended before its budget, ``None`` where it did not.

    Raises:
        ValueError: An argument is unknown or contradicts another.
    """

    def __init__(
        self,
        sampler: str = "nsga2",
        objectives: Sequence[str] | Mapping[str, Direction] = ("accuracy", "latency_ms"),
        directions: Sequence[Direction] | None = None,
        constraints: Mapping[str, float] | None = None,
        storage: str | BaseStorage | None = None,
        study_name: str | None = None,
        seed: int | None = None,
        *,
        costs: Mapping[str, CostFunction] | None = None,
        image_size: int | None = None,
        trials: int | None = None,
        on_trial_end: Callable[[Proposal, Outcome], None] | None = None,
    ) -> None:
        super().__init__()
        check_sampler(sampler)
        parse_objectives(objectives, directions)

        def make_study(space: SpaceSpec | Mapping[str, Any]) -> ArchitectureStudy:
            return ArchitectureStudy(
                space,
                sampler,
                objectives,
                directions,
                constraints,
                costs=costs,
                image_size=image_size,
                storage=storage,
                study_name=study_name,
                seed=seed,
                on_trial_end=on_trial_end,
            )

        self._make_study = make_study
        self._set_up(trials)

    @classmethod
    def from_study(cls, study: ArchitectureStudy, trials: int | None = None) -> OptunaStrategy:
        """Return a strategy over a study that exists already, for example to replay results into it first.

        Args:
            study: The study; the model space must be its space.
            trials: Total of the study's trials.
        """
        strategy = cls.__new__(cls)
        Strategy.__init__(strategy)

        def check_space(space: SpaceSpec | Mapping[str, Any]) -> ArchitectureStudy:
            if space != study.space:
                raise ValueError("the model space is not the space of the study")
            return study

        strategy._make_study = check_space
        strategy._set_up(trials)
        return strategy

    def _set_up(self, trials: int | None) -> None:
        if trials is not None and trials < 1:
            raise ValueError(f"trials {trials} should be at least 1")
        self.stop_reason: str | None = None
        self._trials = trials
        self._study: ArchitectureStudy | None = None
        self._mutables: dict[str, Any] = {}
        self._parameters: dict[str, Parameter] = {}
        # The training-service engine holds weak references only, and calls back from a thread of its own. What it
        # says is queued; Optuna is told from the thread that runs the strategy.
        self._running: dict[int, tuple[ExecutableModelSpace, Proposal]] = {}
        self._reported: dict[int, Any] = {}
        self._ended: SimpleQueue[tuple[int, ModelStatus, float]] = SimpleQueue()

    def extra_repr(self) -> str:
        return "" if self._study is None else f"objectives={self._study.objectives}"

    @property
    def study(self) -> ArchitectureStudy:
        """The study, from :meth:`initialize` on.

        Raises:
            RuntimeError: The strategy has not met a model space yet.
        """
        if self._study is None:
            raise RuntimeError("the strategy has no study before it is initialized with a model space")
        return self._study

    @property
    def running(self) -> list[Proposal]:
        """What is being evaluated now: one proposal at most on the sequential engine."""
        return [proposal for _, proposal in self._running.values()]

    # What NNI calls

    def _initialize(self, model_space: ExecutableModelSpace, engine: ExecutionEngine) -> ExecutableModelSpace:
        self._mutables = dict(model_space.simplify())
        self._parameters = {str(label): parameter(label, mutable) for label, mutable in self._mutables.items()}
        spec = _spec_of(model_space)
        if spec is None:
            self._study = self._make_study({label: p.distribution for label, p in self._parameters.items()})
        else:
            if foreign := sorted(set(self._parameters) - {choice.label for choice in spec.choices}):
                raise ValueError(
                    f"the evaluator has choices of its own ({', '.join(foreign)}); "
                    "with this space the architecture alone is searched"
                )
            self._study = self._make_study(spec)
        engine.register_model_event_callback(ModelEventType.FinalMetric, self._on_final_metric)
        engine.register_model_event_callback(ModelEventType.TrainingEnd, self._on_training_end)
        return model_space

    def _run(self) -> None:
        self.study.recover()
        try:
            while self._wants_more() and self.wait_for_resource():
                self._collect()
                if not self._wants_more():
                    break
                try:
                    proposal = self.study.ask()
                except SpaceExhaustedError as reason:
                    self.stop_reason = str(reason)
                    _logger.warning("The search ends: %s", reason)
                    break
                self._evaluate(proposal)
            while self._running:
                self._collect()
                time.sleep(0.1)
        except KeyboardInterrupt:
            # Not a trial whose result was just being told: that result may be on disk, to be replayed.
            self.study.recover([proposal.number for proposal in self.running])
            raise

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback(ModelEventType.FinalMetric, self._on_final_metric)
        self.engine.unregister_model_event_callback(ModelEventType.TrainingEnd, self._on_training_end)

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[ExecutableModelSpace]:
        """Yield the models of the complete trials, those of earlier sessions too.

        Args:
            sort: Best first objective first; else in the order of the trials. ``study.best_trials`` is the front.
            limit: Number of models at most.
        """
        trials = [trial for trial in self.study.trials if trial.state == TrialState.COMPLETE]
        if sort:
            direction = next(iter(self.study.objectives.values()))
            trials.sort(key=lambda trial: trial.values[0], reverse=direction == "maximize")
        for trial in trials[:limit]:
            model = self._freeze(self.study.proposal(trial))
            model.metrics.final = trial.values[0]
            model.status = ModelStatus.Trained
            yield model

    def state_dict(self) -> dict[str, str]:
        # Text, because NNI writes it with torch.save, and torch.load takes no other classes by default.
        return {} if self._study is None else {"study": self._study.to_json()}

    def load_state_dict(self, state_dict: Mapping[str, str]) -> None:
        if "study" in state_dict:
            self.study.load_json(state_dict["study"])

    # Evaluating

    def _wants_more(self) -> bool:
        return self._trials is None or self.study.remaining(self._trials) > len(self._running)

    def _freeze(self, proposal: Proposal) -> ExecutableModelSpace:
        sample = {}
        for label, mutable in self._mutables.items():
            # NNI wants a value for every label, for those too that do not matter in this architecture.
            known = str(label) in proposal.sample
            sample[label] = self._parameters[label].value(proposal.sample[label]) if known else mutable.default()
        return self.model_space.freeze(sample)

    def _evaluate(self, proposal: Proposal) -> None:
        model = self._freeze(proposal)
        self._running[id(model)] = (model, proposal)
        error = None
        try:
            self.engine.submit_models(model)
        except Exception as raised:
            if model.status != ModelStatus.Failed:  # not the evaluation's, but the engine's own
                raise
            error = f"{type(raised).__name__}: {raised}"
        self._collect(error)

    def _on_final_metric(self, event: FinalMetricEvent) -> None:
        if id(event.model) in self._running:
            self._reported[id(event.model)] = event.metric

    def _on_training_end(self, event: TrainingEndEvent) -> None:
        self._ended.put((id(event.model), event.status, time.monotonic()))

    def _collect(self, error: str | None = None) -> None:
        """Tell the study of the models that ended; ``error`` is why the one that just ran failed, where known."""
        # The training service gives two trials that start together each other's parameters now and then. Metrics come
        # with the parameters that were used, the status does not: there a result counts whatever the status says.
        sequential = isinstance(self.engine, SequentialExecutionEngine)
        patience = 0.0 if sequential else _METRICS_MAY_LAG_S
        for _ in range(self._ended.qsize()):
            key, status, since = self._ended.get()
            if key not in self._running or status == ModelStatus.Interrupted:
                continue
            if key not in self._reported and time.monotonic() - since < patience:
                self._ended.put((key, status, since))
                continue
            _, proposal = self._running.pop(key)
            reported = self._reported.pop(key, None)
            if reported is not None and (status == ModelStatus.Trained or not sequential):
                self.study.tell(proposal, self._metrics(reported))
            elif status == ModelStatus.Trained:
                self.study.fail(proposal, "the evaluation ended without nni.report_final_result")
            else:
                self.study.fail(proposal, error or "the evaluation failed; the log of NNI says why")

    def _metrics(self, reported: Any) -> dict[str, Any]:
        """Return what an evaluator reported by name, NNI's ``default`` as the first objective."""
        first = next(iter(self.study.objectives))
        if not isinstance(reported, Mapping):
            return {first: reported}
        metrics = {first: reported["default"], **reported} if "default" in reported else dict(reported)
        metrics.pop("default", None)
        return metrics


def _spec_of(model_space: ExecutableModelSpace) -> SpaceSpec | None:
    """Return the space as data, where it is one of ours."""
    if isinstance(model_space, RawFormatModelSpace):
        space = model_space.model_space
    elif isinstance(model_space, SimplifiedModelSpace):
        if not issubclass(model_space.model.trace_symbol, BackboneSpace):
            return None
        # This format keeps the constructor's arguments alone; a network of the space is quicker built than the space.
        default = {label: mutable.default() for label, mutable in model_space.simplify().items()}
        space = model_space.freeze(default).executable_model()
    else:
        raise ValueError(f"model format {type(model_space).__name__} is not supported; take 'simplified' or 'raw'")
    return space.spec if isinstance(space, BackboneSpace) else None
