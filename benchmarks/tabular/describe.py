"""What the tabular benchmark's file says: noise between seeds, ranges, correlations, ops on Pareto fronts."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from dicenas import Architecture
from dicenas.evaluation.tabular import Training, TrainingTable, read_latencies
from dicenas.files import atomic_write_text
from dicenas.pareto import pareto_front

from .table import SPACE, architectures, group, order, unit_ops

__all__ = ["figures", "run"]


def run(table: Path, latencies: Path, json_path: Path | None = None) -> int:
    """Print the figures of a table, finished or not, and write them to a file where one is given.

    Returns:
        0, the exit status; 1 where no architecture has all its seeds yet.
    """
    found = figures(TrainingTable(table).trainings, read_latencies(latencies) if latencies.exists() else {})
    print(_text(found))
    if json_path is not None:
        atomic_write_text(json_path, json.dumps(found, indent=1) + "\n")
    return 0 if found["architectures"] else 1


def figures(
    trainings: Mapping[tuple[str, int], Training], latencies: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return the figures as plain data; accuracies are shares of 1, over the architectures that have all seeds.

    Args:
        trainings: What a table holds.
        latencies: Milliseconds by architecture and by runtime and size; may be empty.
    """
    seeds = sorted({seed for _, seed in trainings})
    complete = [a for a in architectures() if all((a.hash, seed) in trainings for seed in seeds)] if seeds else []
    cpu = [training.cpu_seconds for training in trainings.values()]
    found: dict[str, Any] = {
        "trainings": len(trainings),
        "of": len(order()),
        "architectures": len(complete),
        "cpu_seconds": round(sum(cpu)),
        "mean_cpu_seconds": round(statistics.fmean(cpu), 1) if cpu else None,
    }
    if len(complete) < 3 or len(seeds) < 2:
        return {**found, "architectures": 0}
    runs = {a.hash: [trainings[a.hash, seed] for seed in seeds] for a in complete}
    val = {key: statistics.fmean(t.val_accuracy[-1] for t in group) for key, group in runs.items()}
    test = {key: statistics.fmean(t.test_accuracy for t in group) for key, group in runs.items()}
    found["val_accuracy"] = _spread(list(val.values()))
    found["test_accuracy"] = _spread(list(test.values()))
    found["noise"] = {
        "val_std_between_seeds": _pooled([[t.val_accuracy[-1] for t in group] for group in runs.values()]),
        "test_std_between_seeds": _pooled([[t.test_accuracy for t in group] for group in runs.values()]),
        "tau_between_seeds_val": _tau(*_columns(runs, lambda t: t.val_accuracy[-1])),
        "tau_between_seeds_test": _tau(*_columns(runs, lambda t: t.test_accuracy)),
        "tau_between_seeds_within_groups": _within_groups(complete, *_columns(runs, lambda t: t.test_accuracy)),
        "tau_val_test": _tau(list(val.values()), list(test.values())),
    }
    points = [_point(a, runs, val, test, latencies) for a in complete]
    costs = [name for name in points[0] if name not in ("accuracy", "val_accuracy") and all(name in p for p in points)]
    accuracies = [point["accuracy"] for point in points]
    found["tau_with_test_accuracy"] = {name: _tau([p[name] for p in points], accuracies) for name in costs}
    found["tau_with_test_accuracy_within_groups"] = {
        name: _within_groups(complete, [p[name] for p in points], accuracies) for name in costs
    }
    # What a rung is worth: one seed's early accuracy against the final one of another.
    epochs = range(len(runs[complete[0].hash][0].val_accuracy))
    found["tau_of_epoch_with_other_seed"] = [
        _tau([g[0].val_accuracy[e] for g in runs.values()], [g[-1].val_accuracy[-1] for g in runs.values()])
        for e in epochs
    ]
    found["op_effect"] = _op_effects(complete, test)
    found["op_cost"] = {
        name: _op_cost(complete, {a.hash: p[name] for a, p in zip(complete, points, strict=True)}) for name in costs
    }
    found["pareto"] = {name: _front(complete, points, name) for name in costs}
    return found


def _point(
    architecture: Architecture,
    runs: Mapping[str, Sequence[Training]],
    val: Mapping[str, float],
    test: Mapping[str, float],
    latencies: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    key = architecture.hash
    costs = {"macs": float(runs[key][0].macs), "params": float(runs[key][0].params)}
    costs.update({f"latency_{name}_ms": value for name, value in latencies.get(key, {}).items()})
    return {"accuracy": test[key], "val_accuracy": val[key], **costs}


def _front(complete: Sequence[Architecture], points: Sequence[Mapping[str, float]], cost: str) -> dict[str, Any]:
    """The front of test accuracy against one cost, and how often each op stands on it, by stage."""
    front = pareto_front(points, {"accuracy": "maximize", cost: "minimize"})
    stages = list(zip(*(unit_ops(complete[i]) for i in front), strict=True))
    counts = [Counter(stage) for stage in stages]
    return {
        "size": len(front),
        "share_by_stage": [{op: round(count[op] / len(front), 3) for op in SPACE.ops} for count in counts],
        "with_dice_anywhere": round(sum("dice_k3" in unit_ops(complete[i]) for i in front) / len(front), 3),
        "points": [
            {
                "architecture": complete[i].hash,
                "width": complete[i].width,
                "resolution": complete[i].image_size[0],
                "ops": list(unit_ops(complete[i])),
                "accuracy": round(points[i]["accuracy"], 4),
                cost: points[i][cost],
            }
            for i in front
        ],
    }


def _op_effects(complete: Sequence[Architecture], accuracy: Mapping[str, float]) -> list[dict[str, float]]:
    """Mean accuracy with each op in a stage, minus that of the pairs that differ in this op being separable alone."""
    effects = []
    for stage in range(len(complete[0].stages)):
        effect: dict[str, float] = {}
        for op in SPACE.ops[1:]:
            gains = [value - plain for value, plain in _pairs(complete, accuracy, stage, op)]
            if len(gains) > 1:
                effect[op] = round(statistics.fmean(gains), 4)
                effect[f"{op}_standard_error"] = round(statistics.stdev(gains) / len(gains) ** 0.5, 4)
                effect[f"{op}_pairs"] = len(gains)
        effects.append(effect)
    return effects


def _op_cost(complete: Sequence[Architecture], cost: Mapping[str, float]) -> dict[str, float]:
    """Share of the network's cost that each op adds in place of a separable one, mean over all stages and pairs."""
    shares = {}
    for op in SPACE.ops[1:]:
        pairs = [p for stage in range(len(complete[0].stages)) for p in _pairs(complete, cost, stage, op)]
        if pairs:
            shares[op] = round(statistics.geometric_mean(value / plain for value, plain in pairs) - 1, 3)
    return shares


def _pairs(
    complete: Sequence[Architecture], values: Mapping[str, float], stage: int, op: str
) -> list[tuple[float, float]]:
    """Return the values of architectures with an op in a stage, each with that of the same with a separable one."""
    by_choice = {(group(a), unit_ops(a)): values[a.hash] for a in complete}
    pairs = []
    for (shared, ops), value in by_choice.items():
        plain = (shared, (*ops[:stage], SPACE.ops[0], *ops[stage + 1 :]))
        if ops[stage] == op and plain in by_choice:
            pairs.append((value, by_choice[plain]))
    return pairs


def _columns(runs: Mapping[str, Sequence[Training]], value: Any) -> tuple[list[float], list[float]]:
    return [value(group[0]) for group in runs.values()], [value(group[1]) for group in runs.values()]


def _tau(left: Sequence[float], right: Sequence[float]) -> float:
    return round(float(kendalltau(left, right).statistic), 3)


def _within_groups(complete: Sequence[Architecture], left: Sequence[float], right: Sequence[float]) -> float | None:
    """Mean over widths and resolutions of Kendall's tau among the architectures that share them: what ops decide."""
    taus = []
    for shared in sorted({group(a) for a in complete}):
        at = [i for i, a in enumerate(complete) if group(a) == shared]
        if len(at) > 2:
            taus.append(_tau([left[i] for i in at], [right[i] for i in at]))
    return round(statistics.fmean(taus), 3) if taus else None


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation within groups."""
    return round(statistics.fmean(statistics.variance(group) for group in groups) ** 0.5, 4)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
        "std": round(statistics.stdev(values), 4),
    }


def _text(found: Mapping[str, Any]) -> str:
    lines = [
        f"{found['trainings']} of {found['of']} trainings, {found['architectures']} architectures with all seeds",
        f"{found['cpu_seconds']} s of processor time, {found['mean_cpu_seconds']} s a training",
    ]
    lines += [
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in found[name].items())
        for name in ("val_accuracy", "test_accuracy", "noise", "tau_with_test_accuracy")
        if name in found
    ]
    if "op_effect" in found:
        lines.append(f"within width and resolution: {found['tau_with_test_accuracy_within_groups']}")
        lines += [f"{name} added in place of separable_k3: {shares}" for name, shares in found["op_cost"].items()]
        lines.append(f"tau of each epoch with the other seed's end: {found['tau_of_epoch_with_other_seed']}")
        lines.append(f"test accuracy gained over {SPACE.ops[0]} in the same place:")
        lines += [f"  stage {stage}: {effect}" for stage, effect in enumerate(found["op_effect"], 1)]
        for cost, front in found["pareto"].items():
            lines.append(f"Pareto front against {cost}: {front['size']}, {front['with_dice_anywhere']} with dice")
            lines += [f"  stage {stage}: {share}" for stage, share in enumerate(front["share_by_stage"], 1)]
    return "\n".join(lines)
