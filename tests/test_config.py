"""The search configuration: what it accepts, and that it reports every mistake at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicenas.config import (
    EVALUATORS,
    SAMPLERS,
    ConfigError,
    LatencyConfig,
    TrialLimits,
    evaluator_kind,
    load_config,
    parse_config,
)
from dicenas.evaluation import ProxyConfig, SupernetConfig, TrainEvaluatorConfig
from dicenas.space import SpaceSpec

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def given(**changes: Any) -> dict[str, Any]:
    """The quickstart configuration without its proxy, and with some sections replaced."""
    settings = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    del settings["proxy"], settings["search"]["first_from_proxy"]
    return {**settings, **changes}


def problems(config: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(config)
    return caught.value.problems


def test_quickstart() -> None:
    config = load_config(QUICKSTART)
    assert config.name == "quickstart"
    # PyYAML reads 60.0e6 as text.
    assert config.constraints == {"macs": 60e6}
    assert config.objectives == {"accuracy": "maximize", "latency_ms": "minimize"}
    assert list(config.objectives) == ["accuracy", "latency_ms"]
    assert config.latency == LatencyConfig()
    assert (config.search.sampler, config.search.trials, config.search.seed) == ("predictor", 24, 0)
    assert config.search.first_from_proxy == 6
    assert config.proxy == ProxyConfig(("naswot",))
    assert isinstance(config.evaluator, TrainEvaluatorConfig)
    assert (config.evaluator.epochs, config.evaluator.batch) == (3, 32)
    assert config.export.formats == ("py", "safetensors")
    spec = config.space_spec(num_classes=10)
    assert spec.stems == ("small",)
    assert spec.resolutions == (32,)
    assert spec.num_classes == 10
    assert spec.minimum("macs", 224) < 60e6


def test_defaults() -> None:
    config = parse_config({"name": "short", "space": {"backbone": "mobilenetv2"}})
    assert config.space_spec(5).stems == ("small",)
    assert config.constraints == {}


def test_yaml_round_trip() -> None:
    config = load_config(QUICKSTART)
    again = parse_config(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.to_yaml() == config.to_yaml()


def test_objectives_as_a_list_have_their_usual_directions() -> None:
    config = parse_config(given(objectives=["accuracy", "macs"]))
    assert config.objectives == {"accuracy": "maximize", "macs": "minimize"}


def test_blocks_of_inverted_residuals() -> None:
    space = {"backbone": "mobilenetv3_small", "expansions": [2.5, 6], "activations": ["relu"]}
    spec = parse_config({"name": "short", "space": space}).space_spec(10)
    assert spec == SpaceSpec(
        "mobilenetv3_small",
        num_classes=10,
        expansions=(2.5, 6.0),
        activations=("relu",),
        stems=spec.stems,
        resolutions=spec.resolutions,
    )


def test_all_mistakes_at_once() -> None:
    config = given(
        space={"backbone": "shufflenetv2", "ops": ["separable", "dise"], "widths": [0.5, 0.6]},
        search={"sampler": "nsgo2", "trials": -3},
        objectives={"acuracy": "maximize", "latency_ms": "lower"},
        constraints={"macs": -1, "energy": 3},
        latencies={},
    )
    found = problems(config)
    for key, said in {
        "latencies": "did you mean 'latency'",
        "space.ops": "did you mean 'dice'",
        "space.widths": "no width 0.6",
        "search.sampler = 'nsgo2'": "did you mean 'nsga2'",
        "search.trials = -3": "an integer of at least 1",
        "objectives.acuracy": "did you mean 'accuracy'",
        "objectives.latency_ms = 'lower'": "maximize, minimize",
        "constraints.macs = -1": "greater than 0",
        "constraints.energy": "known: latency_ms, macs, params, peak_memory_mb, proxy_rank",
    }.items():
        assert [problem for problem in found if key in problem and said in problem], (key, said, found)
    assert len(found) == 9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "../run"}, "name = '../run'"),
        ({"space": "shufflenetv2"}, "expected a mapping with at least a backbone"),
        ({"space": {"backbone": "shufflenet"}}, "did you mean 'shufflenetv2'"),
        ({"space": {"ops": ["dice"]}}, "should name a backbone"),
        ({"space": {"backbone": "shufflenetv2", "depth": [1]}}, "did you mean 'depths'"),
        ({"space": {"backbone": "shufflenetv2", "depths": [[1, 2]]}}, "3 stages"),
        ({"space": {"backbone": "shufflenetv2", "ops": "dice"}}, "ops should be a list"),
        ({"space": {"backbone": "shufflenetv2", "ops": ["dice", "dice_k3"]}}, "given twice: dice_k3"),
        ({"space": {"backbone": "shufflenetv2", "ops": ["skip"]}}, "none of the ops"),
        ({"space": {"backbone": "shufflenetv2", "ops": []}}, "ops: no value given"),
        ({"space": {"backbone": "shufflenetv2", "stem": "tiny"}}, "unknown stem 'tiny'"),
        ({"space": {"backbone": "shufflenetv2", "expansions": [6]}}, "shufflenetv2 has no choice of expansions"),
        ({"space": {"backbone": "mnasnet", "expansions": [3, 99]}}, "space.expansions: expansion 99 is outside"),
        ({"space": {"backbone": "mnasnet", "activations": ["relu", "rely"]}}, "did you mean 'relu'"),
        ({"space": {"backbone": "mnasnet", "expansions": []}}, "expansions: no value given"),
        ({"space": {"backbone": "shufflenetv2", "resolutions": [32, 48]}}, "input_size must be null"),
        ({"data": {"dataset": "digit"}}, "did you mean 'digits'"),
        ({"data": {"dataset": "imagefolder"}}, "root"),
        ({"data": {"dataset": "imagefolder", "root": "no/such/folder"}}, "no/such/folder"),
        ({"evaluator": {"kind": "training"}}, "evaluator.kind = 'training'"),
        ({"evaluator": {"epochs": 0}}, "evaluator.epochs = 0"),
        ({"evaluator": {"epochs": True}}, "evaluator.epochs = True"),
        ({"evaluator": {"learning_rate": "fast"}}, "evaluator.learning_rate = 'fast'"),
        ({"evaluator": [3]}, "expected a mapping"),
        ({"evaluator": {"kind": "supernett"}}, "did you mean 'supernet'"),
        ({"evaluator": {"kind": ["train"]}}, "evaluator.kind = ['train']"),
        ({"evaluator": {"kind": "proxy", "sampel": 3}, "objectives": None}, "did you mean 'sample'"),
        ({"evaluator": {"inherit": "yes"}}, "evaluator.inherit = 'yes': expected true or false"),
        ({"evaluator": {"rungs": [3, 1]}}, "a list of ascending integers of at least 1"),
        ({"evaluator": {"rungs": 1}}, "a list of ascending integers of at least 1"),
        ({"evaluator": {"epochs": 3, "rungs": [1, 3]}}, "expected epochs before the last one, 3"),
        ({"evaluator": {"rungs": [1], "reduction_factor": 1}}, "evaluator.reduction_factor = 1"),
        ({"evaluator": {"time_limit_s": 0}}, "evaluator.time_limit_s = 0: expected a number greater than 0"),
        ({"evaluator": {"kind": "supernet", "rungs": [1]}}, "unknown key evaluator.rungs"),
        ({"evaluator": {"kind": "supernet", "sampling": "sandwhich"}}, "did you mean 'sandwich'"),
        ({"objectives": ["proxy_score"]}, "evaluator.kind train measures accuracy instead"),
        ({"proxy": {"batch": 4}}, "nothing asks for it"),
        ({"proxy": {"proxies": ["naswat"]}, "search": {"first_from_proxy": 2}}, "did you mean 'naswot'"),
        ({"proxy": {"proxies": ["snip", "snip"]}, "constraints": {"proxy_rank": 0.5}}, "expected each proxy once"),
        ({"search": {"first_from_proxy": 101}}, "expected at most the networks of proxy.sample, 100"),
        ({"latency": {"device": "cuda"}}, "latency.device: device cuda is asked for, but"),
        ({"latency": {"runtime": "tensorrt"}}, "latency.runtime = 'tensorrt'"),
        ({"latency": {"table": 3}}, "latency.table = 3"),
        ({"latency": {"device": "tpu"}}, "latency.device = 'tpu': expected a device: cpu, cuda or cuda:<number>"),
        ({"constraints": {"macs": ".nan"}}, "constraints.macs"),
        ({"constraints": {"macs": float("inf")}}, "constraints.macs"),
        ({"constraints": [60]}, "expected a mapping such as macs"),
        ({"export": {"formats": ["py", "tflite"]}}, "export.formats"),
        ({"export": {"trial": "worst"}}, "export.trial"),
        ({"objectives": {}}, "expected a mapping such as accuracy"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_mistake_is_said_alone(changes: dict[str, Any], said: str) -> None:
    found = problems(given(**changes))
    assert len(found) == 1, found
    assert said in found[0]


def tabular(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    """A configuration that replays a table of one architecture and four epochs."""
    space = SpaceSpec("shufflenetv2", ("dice_k3",), (0.1,), ((1,), (1,), (1,)), ("small",), (12,), num_classes=4)
    header = {"schema_version": 2, "space": space.to_dict(), "seeds": [0], "recipe": {"epochs": 4}}
    curves = dict.fromkeys(("val_accuracy", "val_loss", "train_loss"), [0.5] * 4)
    numbers = dict.fromkeys(("seed", "test_accuracy", "macs", "params", "cpu_seconds", "wall_seconds"), 0)
    (architecture,) = space.enumerate()
    training = {"architecture": architecture.hash, "sample": {}, **curves, **numbers, "finished": "", "origin": ""}
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, training)), encoding="utf-8")
    return {"name": "replayed", "evaluator": {"kind": "tabular", "path": str(path), **keys}}


def test_every_kind_of_evaluator_reads_and_writes_its_section(tmp_path: Path) -> None:
    sections = {
        "train": ({"epochs": 5, "rungs": [1, 3], "reduction_factor": 2, "inherit": True}, TrainEvaluatorConfig),
        "supernet": ({"sampling": "sandwich", "time_limit_s": 60}, SupernetConfig),
        "proxy": ({"proxies": ["zen_score"], "sample": 20}, ProxyConfig),
    }
    for kind, (keys, described) in sections.items():
        config = parse_config({"name": "x", "space": {"backbone": "mobilenetv2"}, "evaluator": {"kind": kind, **keys}})
        assert type(config.evaluator) is described
        assert evaluator_kind(config.evaluator) == kind
        section = config.to_dict()["evaluator"]
        assert {**section, **keys} == section
        assert parse_config(config.to_dict()) == config
    assert config.objectives == {"proxy_score": "maximize", "latency_ms": "minimize"}
    assert set(EVALUATORS) == {*sections, "tabular"}


def test_limits_of_trials() -> None:
    assert parse_config(given()).limits == TrialLimits()
    config = parse_config(given(evaluator={"epochs": 9, "rungs": [1, 3], "time_limit_s": 30}))
    assert config.limits == TrialLimits(rungs=(1, 3), reduction_factor=3, time_limit_s=30)
    # What is not asked for is not written: run folders of earlier versions go on.
    assert set(parse_config(given()).to_dict()["evaluator"]) == {
        *("kind", "epochs", "batch", "learning_rate", "weight_decay", "momentum", "max_grad_norm"),
        *("label_smoothing", "threads", "augment"),
    }
    assert set(parse_config(given()).to_dict()["search"]) == {"sampler", "trials", "seed"}


def test_a_table_says_its_space(tmp_path: Path) -> None:
    config = parse_config(tabular(tmp_path, rungs=[1, 3]))
    assert (config.data, config.latency.input_size, config.limits.rungs) == (None, None, (1, 3))
    assert (config.space_spec().num_classes, config.space_spec().size) == (4, 1)
    assert parse_config(config.to_dict()) == config
    wrong = tabular(tmp_path, rungs=[4], latency="latency.json")
    assert [text for text in problems(wrong) if "latency.json: is no file of latencies" in text]
    wrong = {**tabular(tmp_path, rungs=[1, 4]), "latency": {"input_size": 224}, "data": {"dataset": "digits"}}
    found = problems({**wrong, "constraints": {"proxy_rank": 0.5}})
    for said in (
        "evaluator.rungs = [1, 4]: expected epochs before the last one, 4",
        "latency.input_size must be null or left out",
        "data is given, but the table of evaluator.path says it",
        "constraints.proxy_rank needs images",
    ):
        assert [text for text in found if said in text], (said, found)
    assert len(found) == 4


def test_proxies_beside_an_evaluator() -> None:
    assert parse_config(given()).proxy is None
    config = parse_config(given(constraints={"macs": 60e6, "proxy_rank": 0.5}))
    assert config.proxy == ProxyConfig()
    config = parse_config(given(search={"first_from_proxy": 4, "seed": 3}, proxy={"proxies": ["snip"], "sample": 9}))
    assert config.proxy == ProxyConfig(("snip",), sample=9, seed=3)
    assert parse_config(config.to_dict()) == config


def test_final_training(tmp_path: Path) -> None:
    assert parse_config(given()).final is None
    assert "final" not in parse_config(given()).to_dict()
    for section, name, epochs in (
        ({"recipe": "cifar"}, "best", 15),
        ({"train": "top3", "recipe": {"name": "cifar", "epochs": 30}, "data": str(tmp_path)}, "top3", 30),
        ({"train": 7, "recipe": {"epochs": 9, "batch": 8, "learning_rate": "1e-1", "amp": False}}, 7, 9),
    ):
        config = parse_config(given(final=section))
        assert config.final is not None
        assert (config.final.train, config.final.training.epochs) == (name, epochs)
        assert parse_config(config.to_dict()) == config
        assert parse_config(yaml.safe_load(config.to_yaml())) == config
    # The last one as YAML 1.1 reads it.
    assert (config.final.training.learning_rate, config.final.training.amp) == (0.1, "off")


@pytest.mark.parametrize(
    ("section", "complaints"),
    [
        ({}, ["final.recipe is missing"]),
        ("top3", ["final = 'top3': expected a mapping", "final.recipe is missing"]),
        *(
            ({"train": train, "recipe": "short"}, [f"final.train = {train!r}: expected top1, top2, ..., best, or the"])
            for train in ("top0", "top", "top-1", "top1.5", "worst", -1, True, 1.5, ["top3"])
        ),
        ({"recipe": "cifr"}, ["unknown recipe 'cifr'; did you mean 'cifar'?"]),
        ({"recipe": 3}, ["final.recipe = 3: expected the name of a recipe, or a mapping of its fields"]),
        ({"recipe": {"name": "cifar", "epoch": 3}}, ["a recipe has no 'epoch'; did you mean 'epochs'?"]),
        ({"recipe": {"epochs": 3}}, ["the recipe has no batch and no learning_rate"]),
        ({"recipe": {"name": "cifar", "epochs": 0, "flip": 3}}, ["epochs: 0, expected a whole number, 1 or more"]),
        (
            {"recipe": {"name": "cifar", "image_size": 64}},
            ["expected no image_size: networks are trained at their own"],
        ),
        ({"recipe": "short", "data": "nowhere"}, ["final.data = 'nowhere': expected 'digits', or a folder of images"]),
        ({"recipe": "short", "epochs": 3}, ["unknown key final.epochs"]),
    ],
)
def test_mistakes_in_a_final_training(section: Any, complaints: list[str]) -> None:
    found = problems(given(final=section))
    assert len(found) == len(complaints)
    assert all(complaint in problem for complaint, problem in zip(complaints, found, strict=True))


def test_a_table_needs_data_for_a_final_training(tmp_path: Path) -> None:
    replayed = {**tabular(tmp_path), "final": {"recipe": "short"}}
    (problem,) = problems(replayed)
    assert problem.startswith("final.data is missing: a table is replayed without images")
    config = parse_config({**replayed, "final": {"recipe": "short", "data": "digits"}})
    assert config.final is not None
    assert config.final.data == "digits"


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
    for text, said in (("name: [", "is no YAML"), ("", "should hold a mapping"), ("- 1", "should hold a mapping")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=said) as caught:
            load_config(path)
        assert str(path) in str(caught.value)
    path.write_text("name: !!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no YAML"):
        load_config(path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_a_key_given_twice_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    quickstart = QUICKSTART.read_text(encoding="utf-8")
    path.write_text(f"{quickstart}\nsearch:\n  trials: 3\n  trials: 4\n  first_from_proxy: 6\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = quickstart.splitlines()
    first, last = lines.index("search:") + 1, len(lines) + 2
    assert caught.value.problems == [
        f"search is given twice, in line {first} and in line {last}",
        f"search.trials is given twice, in line {last + 1} and in line {last + 2}",
    ]
    path.write_text(f"{quickstart}\nlatency: {{batch: 0}}\nlatency: {{batch: 1}}\nextra: 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)latency is given twice.*unknown key extra"):
        load_config(path)
    # Merging is no repetition, and neither is an alias that holds itself.
    path.write_text(f"{quickstart}\nx: &x {{a: 1}}\ny: {{<<: *x, a: 2}}\nz: &z [*z]", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [problem.partition(" (")[0] for problem in caught.value.problems] == [f"unknown key {key}" for key in "xyz"]


def test_samplers_are_those_of_the_strategies() -> None:
    from dicenas import strategies

    assert set(SAMPLERS) == set(strategies.SAMPLERS)
