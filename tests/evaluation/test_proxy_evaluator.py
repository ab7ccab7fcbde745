"""Ranks among a reference sample: prepared once, resumable, the same for everybody."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dicenas.architecture import Architecture
from dicenas.evaluation import (
    Data,
    DataConfig,
    FilteredEvaluator,
    ProxyConfig,
    ProxyEvaluator,
    TrainConfig,
    TrainEvaluator,
    load_data,
    proxy_evaluator,
)
from dicenas.evaluation.reference_sample import Rank
from dicenas.files import CHECKSUM
from dicenas.nets import build
from dicenas.space import SpaceSpec

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(8, 12),
    num_classes=10,
)
CONFIG = ProxyConfig(("naswot", "params"), sample=6, batch=8)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataConfig(image_size=12, train_limit=60, val_limit=30))


def ignore(step: int, metrics: object) -> None:
    """Takes a report."""


def scored(evaluator: ProxyEvaluator, count: int = 3) -> list[dict[str, float]]:
    rng = Random(5)
    return [dict(evaluator(SPACE.random(rng), None, ignore)) for _ in range(count)]


def test_scores_and_ranks(data: Data, tmp_path: Path) -> None:
    evaluator = ProxyEvaluator(SPACE, data, CONFIG)
    evaluator.prepare(tmp_path)
    best = list(evaluator.sample_scores)[:6]
    assert len(set(best)) == 6
    metrics = [evaluator(architecture, None, ignore) for architecture in best]
    assert all(set(found) == {"naswot", "params", "proxy_score"} for found in metrics)
    scores = [found["proxy_score"] for found in metrics]
    assert scores == sorted(scores, reverse=True)
    # Ranks of the sample itself are 0, 1/5, ... 1 by each proxy.
    for name in ("naswot", "params"):
        ascending = sorted(metrics, key=lambda found: found[name])
        assert [Rank(name, [f[name] for f in metrics])(found[name]) for found in ascending] == pytest.approx(
            [0, 0.2, 0.4, 0.6, 0.8, 1]
        )
    assert [found["params"] for found in metrics] == [SPACE.cost(architecture).params for architecture in best]
    rank = evaluator.costs["proxy_rank"]
    assert [rank(architecture) for architecture in best] == [sum(s > score for s in scores) / 6 for score in scores]
    assert not evaluator.trains_network


def test_an_interrupted_sample_is_gone_on_with(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ProxyEvaluator(SPACE, data, CONFIG)
    whole.prepare(tmp_path / "whole")
    count = 0
    real = proxy_evaluator.proxy_scores

    def stops(*arguments: object) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(proxy_evaluator, "proxy_scores", stops)
    with pytest.raises(KeyboardInterrupt):
        ProxyEvaluator(SPACE, data, CONFIG).prepare(tmp_path / "run")
    count = 10
    torch.manual_seed(3)  # whatever state the process is in
    resumed = ProxyEvaluator(SPACE, data, CONFIG)
    resumed.prepare(tmp_path / "run")
    assert count == 13
    files = [(tmp_path / name / "proxies.json").read_text(encoding="utf-8") for name in ("whole", "run")]
    assert files[0] == files[1]
    again = ProxyEvaluator(SPACE, data, CONFIG)
    again.prepare(tmp_path / "run")
    assert count == 13
    assert again.sample_scores == whole.sample_scores
    # Without a folder the sample is scored when it is needed first.
    assert scored(ProxyEvaluator(SPACE, data, CONFIG)) == scored(whole)


def test_files_of_other_samples(data: Data, tmp_path: Path) -> None:
    ProxyEvaluator(SPACE, data, CONFIG).prepare(tmp_path)
    other = ProxyConfig(("naswot", "params"), sample=5, batch=8)
    with pytest.raises(ValueError, match=r"proxies.json is of another sample; remove it"):
        ProxyEvaluator(SPACE, data, other).prepare(tmp_path)
    path = tmp_path / "proxies.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[CHECKSUM]
    for spoilt in ("{", json.dumps({**content, "scores": {"x": {}}}), json.dumps([])):
        path.write_text(spoilt, encoding="utf-8")
        with pytest.raises(ValueError, match=r"proxies.json is damaged.* remove it"):
            ProxyEvaluator(SPACE, data, CONFIG).prepare(tmp_path)
    key = next(iter(content["scores"]))
    content["scores"][key]["params"] = float("nan")
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="a score is no number"):
        ProxyEvaluator(SPACE, data, CONFIG).prepare(tmp_path)


def test_proxies_that_cannot_rank(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = SpaceSpec(
        "shufflenetv2", ("separable_k3",), (0.1,), ((1,), (1,), (1,)), ("small",), (8, 12), num_classes=10
    )
    with pytest.raises(ValueError, match=r"proxy params is \d+ for all 2 networks .* cannot rank this space"):
        ProxyEvaluator(alike, data, ProxyConfig(("params",))).prepare(tmp_path)

    def nothing(*arguments: object) -> dict[str, float]:
        raise ValueError("proxy naswot gives -inf for this network")

    monkeypatch.setattr(proxy_evaluator, "proxy_scores", nothing)
    with pytest.raises(ValueError, match=r"of 6 networks .* 0 could be scored, .* naswot gives -inf"):
        ProxyEvaluator(SPACE, data, CONFIG).prepare(tmp_path / "other")


def test_wrong_arguments(data: Data) -> None:
    with pytest.raises(ValueError, match="the space has 3 classes, the data 10"):
        ProxyEvaluator(SpaceSpec("mobilenetv2", num_classes=3), data)
    with pytest.raises(ValueError, match=r"(?s)did you mean 'naswot'.*sample: 1, .*batch: True"):
        ProxyConfig(("naswat",), sample=1, batch=True)
    for proxies in ((), "naswot", ("snip", "snip")):
        with pytest.raises(ValueError, match=r"^proxies: "):
            ProxyConfig(proxies)  # type: ignore[arg-type]


def test_proxies_beside_an_evaluator(data: Data, tmp_path: Path) -> None:
    proxies = ProxyEvaluator(SPACE, data, CONFIG)
    config = TrainConfig(epochs=1, batch=20)
    evaluator = FilteredEvaluator(TrainEvaluator(data, config), proxies)
    evaluator.prepare(tmp_path)
    assert (tmp_path / "proxy" / "proxies.json").is_file()
    assert evaluator.suggestions == proxies.sample_scores
    assert len(evaluator.suggestions) == CONFIG.sample
    assert evaluator.costs["proxy_rank"](next(iter(proxies.sample_scores))) == 0
    architecture = SPACE.random(Random(1))
    metrics = []
    for train in (evaluator, TrainEvaluator(data, config)):
        torch.manual_seed(0)
        metrics.append(dict(train(architecture, build(architecture), ignore)))
        del metrics[-1]["train_seconds"]
    assert metrics[0] == metrics[1]


numbers = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20).filter(lambda column: len(set(column)) > 1)


@given(numbers, st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=10))
def test_ranks_keep_the_order(column: list[float], values: list[float]) -> None:
    rank = Rank("naswot", column)
    ascending = sorted(values)
    ranks = [rank(value) for value in ascending]
    assert all(a <= b + 1e-9 for a, b in pairwise(ranks))
    inside = [rank(value) for value in column]
    assert min(inside) >= 0
    assert max(inside) <= 1
    assert sum(inside) / len(inside) == pytest.approx(0.5)
    # Beyond the ends ranks go on.
    reach = max(column) - min(column)
    assert rank(max(column) + reach) > max(inside)
    assert rank(min(column) - reach) < min(inside)


def test_ranks_by_hand() -> None:
    rank = Rank("naswot", [10.0, 0.0, 20.0, 20.0, 50.0])
    expected = {0.0: 0, 5.0: 0.125, 10.0: 0.25, 20.0: 0.625, 35.0: 0.8125, 50.0: 1}
    assert {value: rank(value) for value in expected} == pytest.approx(expected)
    # The last line is that from the middle of the distinct values, 20, to the end.
    assert rank(80.0) == pytest.approx(1 + (1 - 0.625) / 30 * 30)


def test_all_of_a_small_space_is_the_sample(data: Data) -> None:
    small = SpaceSpec("shufflenetv2", ("separable_k3",), (0.1, 0.2), ((1,), (1,), (1,)), ("small",), (8,), 10)
    best = list(ProxyEvaluator(small, data, ProxyConfig(("params",))).sample_scores)[:5]
    expected: list[Architecture] = sorted(small.enumerate(), key=lambda a: -small.cost(a).params)
    assert best == expected
