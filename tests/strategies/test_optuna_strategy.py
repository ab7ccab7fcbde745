"""The NNI strategy on NNI's engines, formats and spaces."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from torch import nn

from dicenas.search_spaces import ShuffleNetV2Space, make_space
from dicenas.space import SpaceSpec
from dicenas.strategies import ArchitectureStudy, InfeasibleConstraintError, OptunaStrategy, Outcome, Proposal

import nni  # isort: skip  (dicenas.search_spaces imports it without its known warnings)
from nni.experiment import launcher
from nni.mutable import Categorical, CategoricalMultiple, Numerical
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import ExecutionEngine, SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.hub.pytorch import MobileNetV3Space, ShuffleNetSpace
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import ModelStatus, RawFormatModelSpace, SimplifiedModelSpace

SPEC = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
FORMATS = pytest.mark.parametrize("model_format", [RawFormatModelSpace, SimplifiedModelSpace])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def report_size(net: nn.Module) -> None:
    nni.report_intermediate_result(0.0)
    nni.report_final_result(float(size(net)))


def run(strategy: OptunaStrategy, function: Any, spec: SpaceSpec = SPEC, budget: int | None = None) -> OptunaStrategy:
    space = SimplifiedModelSpace.from_model(make_space(spec), FunctionalEvaluator(function))
    strategy(space, SequentialExecutionEngine(max_model_count=budget))
    return strategy


# Engines and formats


@FORMATS
def test_it_runs_by_itself_on_both_formats(model_format: Any) -> None:
    nets: list[nn.Module] = []

    def evaluate(net: nn.Module) -> None:
        nets.append(net)
        report_size(net)

    strategy = OptunaStrategy("nsga2", ("accuracy", "macs"), constraints={"params": 1e6}, seed=0)
    space = model_format.from_model(make_space(SPEC), FunctionalEvaluator(evaluate))
    strategy(space, SequentialExecutionEngine(max_model_count=6))

    trials = strategy.study.trials
    assert len(trials) == len(nets) == 6
    assert len({id(parameter) for net in nets for parameter in net.parameters()}) == sum(
        len(list(net.parameters())) for net in nets
    )
    for trial, net in zip(trials, nets, strict=True):
        architecture = strategy.study.proposal(trial).architecture
        assert architecture is not None
        assert trial.values == [size(net), SPEC.cost(architecture).macs]
        assert net.architecture == architecture
    assert strategy.running == []


@FORMATS
def test_the_best_models_come_first(model_format: Any) -> None:
    strategy = OptunaStrategy("random", {"accuracy": "minimize"}, seed=0)
    space = model_format.from_model(make_space(SPEC), FunctionalEvaluator(report_size))
    strategy(space, SequentialExecutionEngine(max_model_count=5))
    models = list(strategy.list_models())
    sizes = [size(model.executable_model()) for model in models]
    assert sizes == sorted(sizes) == [model.metric for model in models]
    assert [model.metric for model in strategy.list_models(limit=2)] == sizes[:2]
    assert [model.metric for model in strategy.list_models(sort=False)] == [t.values[0] for t in strategy.study.trials]


def experiment(folder: Path, strategy: OptunaStrategy, trials: int, identifier: str | None = None) -> NasExperiment:
    config = NasExperimentConfig(execution_engine="sequential", model_format="simplified")
    config.max_trial_number = trials
    config.experiment_working_directory = str(folder)
    return NasExperiment(make_space(SPEC), FunctionalEvaluator(report_size), strategy, config, id=identifier)


def test_an_experiment_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    first = OptunaStrategy("nsga2", ("accuracy", "params"), constraints={"macs": 1e9}, seed=0)
    begun = experiment(tmp_path, first, 4)
    begun.run()
    begun.stop()

    second = OptunaStrategy("nsga2", ("accuracy", "params"), constraints={"macs": 1e9}, seed=0)
    resumed = experiment(tmp_path, second, 7, begun.id)
    resumed.resume()
    resumed.stop()
    assert second.study.finished == 7
    assert [t.values for t in second.study.trials[:4]] == [t.values for t in first.study.trials]
    assert len({t.user_attrs["architecture_hash"] for t in second.study.trials}) == 7
    best = resumed.export_top_models(1, formatter="instance")[0]
    assert size(best) == max(trial.values[0] for trial in second.study.trials)


def test_the_state_is_json_and_empty_before_there_is_a_study() -> None:
    strategy = OptunaStrategy("random", ("accuracy",))
    assert strategy.state_dict() == {}
    with pytest.raises(RuntimeError, match="no study before"):
        strategy.study  # noqa: B018
    run(strategy, report_size, budget=2)
    assert len(json.loads(strategy.state_dict()["study"])) >= 2


def test_local_training_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials at a time in processes of their own; a failed one counts and the search goes on."""
    # The trial processes import this package and the module of the evaluation.
    module = tmp_path / "evaluation_of_a_trial.py"
    module.write_text(
        "import dicenas.search_spaces, nni\n"
        "def evaluate(net):\n"
        "    if net.architecture.width == 0.1:\n"
        "        raise MemoryError('too big')\n"
        "    nni.report_final_result({'default': 0.5, 'loss': 2.0})\n"
    )
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    monkeypatch.chdir(tmp_path)
    import evaluation_of_a_trial

    # NNI gives its server three seconds to start, too few on a machine that is busy.
    monkeypatch.setattr(launcher, "_check_rest_server", partial(launcher._check_rest_server, retry=60))
    strategy = OptunaStrategy("random", ("accuracy", "macs"), trials=2, seed=3)  # draws both widths
    config = NasExperimentConfig(execution_engine="ts", model_format="simplified", training_service_platform="local")
    config.max_trial_number, config.trial_concurrency = 2, 2
    config.experiment_working_directory = str(tmp_path)
    evaluator = FunctionalEvaluator(evaluation_of_a_trial.evaluate)
    running = NasExperiment(make_space(SPEC), evaluator, strategy, config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        running.run(port=port)
    finally:
        running.stop()
    failed, complete = [], []
    for trial in strategy.study.trials:
        proposal = strategy.study.proposal(trial)
        (failed if proposal.sample["width"] == 0.1 else complete).append(trial)
    assert len(failed) == len(complete) == 1
    assert all(trial.state == optuna.trial.TrialState.FAIL for trial in failed)
    assert all("the evaluation" in trial.user_attrs["error"] for trial in failed)
    assert all(trial.user_attrs["metrics"]["loss"] == 2.0 and trial.values[0] == 0.5 for trial in complete)


class LateMetrics(ExecutionEngine):
    """An engine that calls back from a thread, and says that a model ended before it passes on its metric."""

    def submit_models(self, *models: Any) -> None:
        for model in models:
            threading.Thread(target=self._evaluate, args=(model,)).start()

    def _evaluate(self, model: Any) -> None:
        self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))
        time.sleep(0.3)
        self.dispatch_model_event(FinalMetricEvent(model, 0.5))

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return True


def test_metrics_may_come_after_the_end_of_a_trial() -> None:
    strategy = OptunaStrategy("random", ("accuracy",), trials=3, seed=0)
    strategy(SimplifiedModelSpace.from_model(make_space(SPEC), FunctionalEvaluator(report_size)), LateMetrics())
    assert [trial.values for trial in strategy.study.trials] == [[0.5]] * 3


# Failures and sessions


@pytest.mark.parametrize("continue_on_failure", [False, True])
def test_failures_do_not_end_the_search(continue_on_failure: bool) -> None:
    numbers = iter(range(100))

    def evaluate(net: nn.Module) -> None:
        match next(numbers):
            case 0:
                raise MemoryError("too big")
            case 1:
                nni.report_final_result(math.nan)
            case 2:
                pass
            case 3:
                nni.report_final_result({"top1": 0.5})
            case _:
                report_size(net)

    strategy = OptunaStrategy("random", ("accuracy",), trials=6, seed=0)
    space = SimplifiedModelSpace.from_model(make_space(SPEC), FunctionalEvaluator(evaluate))
    strategy(space, SequentialExecutionEngine(continue_on_failure=continue_on_failure))
    errors = [trial.user_attrs.get("error") for trial in strategy.study.trials]
    reason = "the evaluation failed; the log of NNI says why"
    assert errors[0] == (reason if continue_on_failure else "MemoryError: too big")
    assert errors[1] == "accuracy is nan"
    assert errors[2] == "the evaluation ended without nni.report_final_result"
    assert continue_on_failure or "does not contain key 'default'" in str(errors[3])
    assert errors[4:] == [None, None]


def test_an_objective_that_nobody_supplies_is_named() -> None:
    strategy = run(OptunaStrategy("random", ("accuracy", "top5"), ("maximize", "maximize")), report_size, budget=1)
    assert strategy.study.trials[0].user_attrs["error"].startswith("the evaluation did not report top5")


def test_metrics_are_reported_by_name() -> None:
    def evaluate(net: nn.Module) -> None:
        nni.report_final_result({"default": 0.25, "loss": 2, "macs": 7.0})

    strategy = run(OptunaStrategy("random", ("accuracy", "macs"), seed=0), evaluate, budget=1)
    trial = strategy.study.trials[0]
    assert trial.values == [0.25, 7.0]
    assert trial.user_attrs["metrics"]["loss"] == 2.0


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    evaluated: list[Any] = []

    def interrupted(net: nn.Module) -> None:
        evaluated.append(net.architecture)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        report_size(net)

    first = OptunaStrategy("random", ("accuracy",), storage=storage, seed=0, trials=5)
    with pytest.raises(KeyboardInterrupt):
        run(first, interrupted)
    assert first.study.finished == 2
    assert first.study.study.trials[2].user_attrs["interrupted"] is True

    second = run(OptunaStrategy("random", ("accuracy",), storage=storage, seed=0, trials=5), interrupted)
    assert second.study.finished == 5
    assert evaluated[3] == evaluated[2]
    assert len(set(evaluated)) == len(evaluated) - 1 == 5
    third = run(OptunaStrategy("random", ("accuracy",), storage=storage, seed=0, trials=5), interrupted)
    assert third.study.finished == 5
    assert len(evaluated) == 6


def test_ctrl_c_between_the_file_and_optuna_repeats_nothing(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    on_disk: dict[int, Outcome] = {}

    def on_trial_end(proposal: Proposal, outcome: Outcome) -> None:
        on_disk[proposal.number] = outcome
        if len(on_disk) == 2:
            raise KeyboardInterrupt

    def study() -> ArchitectureStudy:
        return ArchitectureStudy(SPEC, "random", ("accuracy",), storage=storage, seed=0, on_trial_end=on_trial_end)

    with pytest.raises(KeyboardInterrupt):
        run(OptunaStrategy.from_study(study(), trials=3), report_size)
    resumed = study()
    assert [resumed.replay(number, outcome.metrics) for number, outcome in on_disk.items()] == [False, True]
    run(OptunaStrategy.from_study(resumed, trials=3), report_size)
    assert resumed.finished == len(resumed.study.trials) == len(on_disk) == 3


def test_a_study_made_beforehand_is_continued() -> None:
    seen: list[Outcome] = []

    def on_trial_end(proposal: Proposal, outcome: Outcome) -> None:
        seen.append(outcome)

    study = ArchitectureStudy(SPEC, "random", ("accuracy",), seed=0, on_trial_end=on_trial_end)
    known = study.ask()
    study.replay(known.number, {"accuracy": 0.5})
    strategy = run(OptunaStrategy.from_study(study, trials=3), report_size)
    assert strategy.study is study
    assert study.finished == 3
    assert [outcome.state for outcome in seen] == ["complete", "complete"]
    with pytest.raises(ValueError, match="not the space of the study"):
        run(OptunaStrategy.from_study(study), report_size, SpaceSpec("shufflenetv2"))


def test_a_small_space_ends_the_search_before_its_budget() -> None:
    tiny = SpaceSpec("shufflenetv2", ("dice_k3",), (0.1, 0.2), ((1,), (1,), (1,)), ("small",), (32,))
    strategy = run(OptunaStrategy("nsga2", ("accuracy",)), report_size, tiny, budget=5)
    assert strategy.study.finished == tiny.size == 2
    assert strategy.stop_reason == "all 2 architectures of the space are evaluated"


# Constraints


def test_infeasible_architectures_are_never_evaluated() -> None:
    bound = 1.2 * SPEC.minimum("macs")
    macs: list[int] = []

    def evaluate(net: nn.Module) -> None:
        macs.append(SPEC.cost(net.architecture).macs)  # type: ignore[arg-type]
        report_size(net)

    strategy = run(OptunaStrategy("nsga2", ("accuracy", "macs"), constraints={"macs": bound}), evaluate, budget=8)
    assert len(macs) == strategy.study.finished == 8
    assert max(macs) <= bound


def test_bad_arguments_are_refused_early() -> None:
    with pytest.raises(ValueError, match="did you mean 'tpe'"):
        OptunaStrategy("tpee")
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        OptunaStrategy(objectives=("accurcy",))
    with pytest.raises(ValueError, match="trials 0"):
        OptunaStrategy(objectives=("accuracy",), trials=0)
    with pytest.raises(ValueError, match="'latency_ms' has no source"):
        run(OptunaStrategy(), report_size)
    with pytest.raises(InfeasibleConstraintError, match="the smallest value in this space"):
        run(OptunaStrategy("random", ("accuracy",), constraints={"macs": 1.0}), report_size)


def test_choices_of_the_evaluator_are_refused() -> None:
    evaluator = FunctionalEvaluator(report_size, rate=nni.choice("rate", [0.1, 0.2]))
    strategy = OptunaStrategy("random", ("accuracy",))
    with pytest.raises(ValueError, match=r"choices of its own \(rate"):
        strategy(SimplifiedModelSpace.from_model(make_space(SPEC), evaluator), SequentialExecutionEngine(1))


# Other NNI spaces


@FORMATS
@pytest.mark.parametrize("space", [ShuffleNetSpace, MobileNetV3Space])
def test_hub_spaces(space: Any, model_format: Any) -> None:
    def evaluate(net: nn.Module) -> None:
        nni.report_final_result({"default": 1.0 / size(net), "latency_ms": float(size(net))})

    strategy = OptunaStrategy("nsga2", seed=0)
    strategy(model_format.from_model(space(), FunctionalEvaluator(evaluate)), SequentialExecutionEngine(3))
    assert strategy.study.finished == 3
    assert all(trial.values[0] == 1 / trial.values[1] for trial in strategy.study.trials)
    assert strategy.study.best_trials[0].values[1] == min(trial.values[1] for trial in strategy.study.trials)


def test_hub_spaces_have_no_constraints() -> None:
    strategy = OptunaStrategy("random", ("accuracy",), constraints={"macs": 1e8})
    space = SimplifiedModelSpace.from_model(ShuffleNetSpace(), FunctionalEvaluator(report_size))
    with pytest.raises(ValueError, match="need the architectures of a SpaceSpec"):
        strategy(space, SequentialExecutionEngine(1))


class EveryMutable(ModelSpace):
    """A space of one's own, with a choice of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Linear(2, 2), nn.Linear(2, 3)], label="layer")
        for mutable in (
            Categorical([(1, 1), (2, 2)], label="pair"),
            CategoricalMultiple(["a", "b", "c"], n_chosen=2, label="two"),
            CategoricalMultiple(["a", "b"], label="any"),
            Numerical(0.1, 0.9, label="rate"),
            Numerical(1e-4, 1.0, log_distributed=True, label="decay"),
            Numerical(0.1, 0.95, quantize=0.25, label="quarter"),
        ):
            self.add_mutable(mutable)


def test_every_bounded_mutable_can_be_searched() -> None:
    samples: list[dict[str, Any]] = []

    def evaluate(model: Any) -> None:
        samples.append(dict(model.sample))
        nni.report_final_result(1.0)

    evaluator = FunctionalEvaluator(evaluate)
    evaluator._execute = lambda model: evaluate(model)  # the samples are of interest, not the networks
    space = RawFormatModelSpace.from_model(EveryMutable(), evaluator)
    strategy = OptunaStrategy("random", ("accuracy",), seed=0)
    strategy(space, SequentialExecutionEngine(30))
    assert strategy.study.finished == len(samples) == 30
    assert {sample["pair"] for sample in samples} == {(1, 1), (2, 2)}
    assert {tuple(sample["two"]) for sample in samples} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert {tuple(sample["any"]) for sample in samples} == {(), ("a",), ("b",), ("a", "b")}
    assert {sample["quarter"] for sample in samples} == {0.25, 0.5, 0.75}
    assert all(0.1 <= sample["rate"] <= 0.9 and 1e-4 <= sample["decay"] <= 1 for sample in samples)


@pytest.mark.parametrize(
    ("mutable", "message"),
    [
        (Numerical(mu=0.0, sigma=1.0, label="x"), "'x' is not uniform"),
        (Numerical(1e-3, 1.0, log_distributed=True, quantize=0.1, label="x"), "log-uniform and quantized"),
        (CategoricalMultiple(list(range(20)), label="x"), "1,048,576 subsets"),
    ],
)
def test_mutables_that_optuna_cannot_draw_are_refused(mutable: Any, message: str) -> None:
    class Space(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.add_mutable(mutable)

    space = SimplifiedModelSpace.from_model(Space(), FunctionalEvaluator(report_size))
    with pytest.raises(ValueError, match=message):
        OptunaStrategy("random", ("accuracy",))(space, SequentialExecutionEngine(1))


def test_the_space_with_all_defaults_is_recognised() -> None:
    strategy = OptunaStrategy("random", ("macs",), seed=0)
    space = SimplifiedModelSpace.from_model(ShuffleNetV2Space(), FunctionalEvaluator(report_size))
    strategy.initialize(space, SequentialExecutionEngine(1))
    assert strategy.study.space == SpaceSpec("shufflenetv2")
