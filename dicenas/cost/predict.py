"""Latency predicted from a table: the sum over a network's blocks, calibrated on networks that were measured whole."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.cost.table import LatencyTable, NetworkLatency
from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.ops import parse_candidate

__all__ = ["FORMS", "LatencyPredictor", "MissingBlockError", "Prediction", "fit_predictor"]

#: Forms of the prediction, by name, as what they know of each block: the first is the plain sum of the table.
FORMS = ("block_sum", "scaled_sum", "affine_sum", "per_block", "per_op", "macs")

_FOLDS = 8
_RIDGE = 1e-3


class MissingBlockError(ValueError):
    """A network has a block that the table does not hold."""


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes:
        latency_ms: The prediction.
        deviation_ms: Standard deviation of predictions of networks that the calibration had not seen.
    """

    latency_ms: float
    deviation_ms: float


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts latencies as a weighted sum of numbers that are known of a network's blocks.

    Attributes:
        form: One of :data:`FORMS`.
        weights: Weight of each of the numbers.
        cross_validation: Relative standard deviation of the prediction of held-out networks, by form; infinite where
            too few networks were measured to tell.
        features: What each block of the table adds.
        table: The table.
    """

    form: str
    weights: tuple[float, ...]
    cross_validation: Mapping[str, float]
    features: Mapping[BlockSpec, tuple[float, ...]]
    table: LatencyTable

    def predict(self, architecture: Architecture) -> Prediction:
        """Predict the latency of a network of the table's space.

        Raises:
            MissingBlockError: The table lacks one of its blocks, or the device could not run it.
        """
        return self.predict_many([architecture])[0]

    def predict_many(self, architectures: Iterable[Architecture]) -> list[Prediction]:
        """Predict the latencies of several networks; see :meth:`values` for very many.

        Raises:
            MissingBlockError: As :meth:`predict`.
        """
        rows = [[self.values(block) for block in self.table.blocks_of(a)] for a in architectures]
        sums = [[math.fsum(column) for column in zip(*row, strict=True)] for row in rows]
        deviation = self.cross_validation[self.form]
        times = [_dot(self.weights, row) for row in sums]
        return [Prediction(time_ms, deviation * time_ms) for time_ms in times]

    def values(self, block: BlockSpec) -> tuple[float, ...]:
        """Return what a block adds: with :class:`~dicenas.space.vectorized.VectorizedSpace` these are summed fast.

        Raises:
            MissingBlockError: The table lacks the block, or the device could not run it.
        """
        if block not in self.features:
            reason = self.table.infeasible.get(block, "it was not measured")
            raise MissingBlockError(f"the latency table has no time for {block}: {reason}")
        return self.features[block]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return latencies in ms from the sums ``(N, F)`` of :meth:`values` over the blocks of N networks."""
        return rows @ torch.tensor(self.weights, dtype=rows.dtype)


def fit_predictor(table: LatencyTable, form: str | None = None) -> LatencyPredictor:
    """Fit a predictor to the networks of a table that were measured whole.

    Args:
        table: The table.
        form: One of :data:`FORMS`; by default the one that predicts held-out networks best, in cross-validation that
            takes the held-out networks' share out of the blocks' times too.
    """
    if form is not None and form not in FORMS:
        raise ValueError(f"unknown form {form!r} (known: {', '.join(FORMS)})")
    errors = {name: _cross_validate(table, name) for name in FORMS}
    if form is None:
        # MACs alone are a baseline to be shown, never what is used.
        form = min((name for name in FORMS if name != "macs"), key=errors.__getitem__)
    features = _features(table, form, table.blocks_ms())
    weights = _fit(table, form, features, table.networks)
    return LatencyPredictor(form, weights, errors, features, table)


def _cross_validate(table: LatencyTable, form: str) -> float:
    """Return the relative root mean square error of networks that neither fit nor blocks have seen."""
    networks = list(table.networks)
    Random(0).shuffle(networks)
    errors: list[float] = []
    for fold in range(min(_FOLDS, len(networks))):
        held_out = networks[fold::_FOLDS]
        seen = [network for network in networks if network not in held_out]
        features = _features(table, form, table.blocks_ms(seen))
        weights = _fit(table, form, features, seen)
        for network in held_out:
            blocks = table.blocks_of(network.architecture)
            if all(block in features for block in blocks):
                predicted = _dot(weights, _sum(features, blocks))
                errors.append(predicted / table.scaled_ms(network) - 1)
    return math.sqrt(math.fsum(e * e for e in errors) / len(errors)) if errors else math.inf


def _features(
    table: LatencyTable, form: str, blocks_ms: Mapping[BlockSpec, float]
) -> dict[BlockSpec, tuple[float, ...]]:
    """Return what a form knows of each block; the head, which every network has once, carries the constant."""
    family = get_backbone(table.space.backbone)
    kinds = sorted({_kind(table, block) for block in blocks_ms})

    def of(block: BlockSpec, time_ms: float) -> tuple[float, ...]:
        once = 1.0 if block.kind == "head" else 0.0
        if form in ("block_sum", "scaled_sum"):
            return (time_ms,)
        if form == "affine_sum":
            return (time_ms, once)
        if form == "per_block":
            return (time_ms, once, 1.0)
        if form == "per_op":
            return (once, *(time_ms if kind == _kind(table, block) else 0.0 for kind in kinds))
        return (family.block_cost(block).macs / 1e6, once)

    return {block: of(block, time_ms) for block, time_ms in blocks_ms.items()}


def _kind(table: LatencyTable, block: BlockSpec) -> str:
    """Return the name of the op in a block, without its kernel size, or the kind of a block that has none."""
    if block.op is None:
        return block.kind
    return parse_candidate(get_backbone(table.space.backbone).candidate(block.op))[0].name


def _fit(
    table: LatencyTable,
    form: str,
    features: Mapping[BlockSpec, tuple[float, ...]],
    networks: Collection[NetworkLatency],
) -> tuple[float, ...]:
    if form == "block_sum":
        return (1.0,)
    known = [n for n in networks if all(block in features for block in table.blocks_of(n.architecture))]
    length = len(next(iter(features.values()))) if features else 1
    if not known:  # nothing to fit to: the plain sum
        return tuple(_prior(form, length))
    x = torch.tensor([_sum(features, table.blocks_of(n.architecture)) for n in known], dtype=torch.float64)
    y = torch.tensor([table.scaled_ms(n) for n in known], dtype=torch.float64)
    # Relative errors count: rows are divided by what they should give. Of coefficients that the networks leave open,
    # the one nearest to the plain sum is taken.
    x = x / y[:, None]
    prior = torch.tensor(_prior(form, length), dtype=torch.float64)
    scale = x.abs().mean(0).clamp_min(1e-12)
    scaled = x / scale
    ridge = _RIDGE * len(known) * torch.eye(x.shape[1], dtype=torch.float64)
    rest = torch.ones(len(known), dtype=torch.float64) - x @ prior
    correction = torch.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ rest)
    return tuple((prior + correction / scale).tolist())


def _prior(form: str, length: int) -> Sequence[float]:
    if form == "per_op":
        return [0.0, *[1.0] * (length - 1)]
    return [0.0] * length if form == "macs" else [1.0, *[0.0] * (length - 1)]


def _sum(features: Mapping[BlockSpec, tuple[float, ...]], blocks: Iterable[BlockSpec]) -> list[float]:
    return [math.fsum(column) for column in zip(*(features[block] for block in blocks), strict=True)]


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * x for w, x in zip(weights, values, strict=True))
