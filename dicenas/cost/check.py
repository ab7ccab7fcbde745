"""How good a table's predictions are, on networks that were not measured for it."""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from dicenas.architecture import Architecture
from dicenas.cost.predict import fit_predictor
from dicenas.cost.runtimes import LatencySettings
from dicenas.cost.table import LatencyTable, NetworkLatency, block_to_dict
from dicenas.cost.turns import TurnTaker
from dicenas.nets.backbone import BlockSpec

__all__ = [
    "Accuracy",
    "CheckedNetwork",
    "Suspect",
    "TableCheck",
    "accuracy",
    "check_table",
    "kendall_tau",
    "spearman_rho",
]

#: A block is suspect where the table and what was measured now differ by more than this factor.
_SUSPECT_FACTOR = 1.5
_DRAWS_FOR_EACH = 200  # in larger ones, how often is drawn for each network that is asked for
_ENUMERABLE = 5000  # spaces up to this size are looked through for networks that the table has not seen


@dataclass(frozen=True)
class CheckedNetwork:
    """A network that was predicted and measured.

    Attributes:
        architecture: The network.
        measured_ms: Its latency as measured now, scaled by the reference network to the table's conditions.
        raw_ms: The same as the clock gave it.
        predicted_ms: Prediction of each method by name: ``"table"`` and the baselines ``"macs"`` and ``"block_sum"``.
    """

    architecture: Architecture
    measured_ms: float
    raw_ms: float
    predicted_ms: dict[str, float]


@dataclass(frozen=True)
class Accuracy:
    """How near predictions came to measurements.

    Attributes:
        within_10_percent: Share of networks predicted to within 10 %.
        within_5_percent: Share of networks predicted to within 5 %.
        kendall_tau: Kendall's rank correlation (tau-b).
        spearman_rho: Spearman's rank correlation.
        median_error: Median of the absolute relative errors.
        largest_error: Largest absolute relative error.
    """

    within_10_percent: float
    within_5_percent: float
    kendall_tau: float
    spearman_rho: float
    median_error: float
    largest_error: float


@dataclass(frozen=True)
class Suspect:
    """A block whose time in the table is far from what was measured within the networks of a check.

    Attributes:
        block: The block.
        table_ms: Its time in the table.
        measured_ms: Median of its times now, scaled as those of the networks.
    """

    block: BlockSpec
    table_ms: float
    measured_ms: float


@dataclass(frozen=True)
class TableCheck:
    """Predictions of a table compared with fresh measurements.

    Attributes:
        networks: The networks.
        drift: How much slower the reference network ran now than when the table was measured, 0.02 for 2 %.
        form: Form of the predictor.
        methods: Accuracy by method: ``"table"``, ``"block_sum"`` and ``"macs"``.
        suspects: Blocks whose time in the table is off by more than a factor of 1.5, the worst first; none where a
            runtime does not tell the times of blocks.
    """

    networks: tuple[CheckedNetwork, ...]
    drift: float
    form: str
    methods: dict[str, Accuracy]
    suspects: tuple[Suspect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain data: the table's accuracy at the top, each baseline's under its name."""
        return {
            **asdict(self.methods["table"]),
            **{name: asdict(found) for name, found in self.methods.items() if name != "table"},
            "drift": self.drift,
            "form": self.form,
            "suspects": [{**asdict(suspect), "block": block_to_dict(suspect.block)} for suspect in self.suspects],
            "networks": [
                {
                    "architecture": network.architecture.to_dict(),
                    "measured_ms": network.measured_ms,
                    "raw_ms": network.raw_ms,
                    "predicted_ms": network.predicted_ms,
                }
                for network in self.networks
            ],
        }


def check_table(
    table: LatencyTable,
    settings: LatencySettings,
    *,
    networks: int = 30,
    seed: int = 1,
    turns: int = 20,
    time_limit_s: float = 1.5,
    progress: Callable[[int, int], None] | None = None,
) -> TableCheck:
    """Measure networks that the table has not seen and compare them with what it predicts.

    Each takes turns with the table's reference network. Measurements are scaled by how that runs now and ran then, so
    a machine that is a little slower today is no error of the prediction; ``drift`` tells by how much.

    Args:
        table: The table.
        settings: Under what it was measured.
        networks: How many networks to draw.
        seed: Of the draw.
        turns: Turns of each network in any case, more than when the table was measured: what is found wanting should
            be the table.
        time_limit_s: Limit of the timed runs of each network beyond that.
        progress: Called with what is done and what there is to do.

    Raises:
        ValueError: The space holds fewer networks than asked for beside those of the table.
    """
    predictors = {"table": fit_predictor(table), **{name: fit_predictor(table, name) for name in ("block_sum", "macs")}}
    taker = TurnTaker(table.reference, settings, table.fingerprint.input_size)
    checked: list[CheckedNetwork] = []
    measurements: list[NetworkLatency] = []
    for architecture in _unseen(table, networks, seed):
        measured = taker.measure(architecture, time_limit_s=time_limit_s, turns=turns)
        measurements.append(measured)
        checked.append(
            CheckedNetwork(
                architecture,
                measured_ms=table.scaled_ms(measured),
                raw_ms=measured.latency_ms,
                predicted_ms={name: p.predict(architecture).latency_ms for name, p in predictors.items()},
            )
        )
        if progress is not None:
            progress(len(checked), networks)
    measured_ms = [network.measured_ms for network in checked]
    methods = {name: accuracy([network.predicted_ms[name] for network in checked], measured_ms) for name in predictors}
    drift = statistics.median(measured.reference_ms for measured in measurements) / table.reference_ms - 1
    return TableCheck(tuple(checked), drift, predictors["table"].form, methods, _suspects(table, measurements))


def _suspects(table: LatencyTable, measurements: Sequence[NetworkLatency]) -> tuple[Suspect, ...]:
    if any(measured.blocks_ms is None for measured in measurements):
        return ()
    now = table.blocks_ms(measurements)
    then = table.blocks_ms()
    found = [Suspect(block, then[block], now[block]) for block in now]

    def factor(suspect: Suspect) -> float:
        return math.exp(abs(math.log(suspect.table_ms / suspect.measured_ms)))

    return tuple(sorted((s for s in found if factor(s) > _SUSPECT_FACTOR), key=factor, reverse=True))


def _unseen(table: LatencyTable, count: int, seed: int) -> list[Architecture]:
    rng = Random(seed)
    seen = {network.architecture for network in table.networks}

    def suits(architecture: Architecture) -> bool:
        return architecture not in seen and not any(b in table.infeasible for b in table.blocks_of(architecture))

    if table.space.size <= _ENUMERABLE:
        all_unseen = [architecture for architecture in table.space.enumerate() if suits(architecture)]
        if len(all_unseen) < count:
            raise ValueError(
                f"the space has only {len(all_unseen)} networks beside those of the table; ask for fewer than {count}"
            )
        return rng.sample(all_unseen, count)
    drawn: dict[Architecture, None] = {}
    for _ in range(_DRAWS_FOR_EACH * count):
        if len(drawn) == count:
            break
        architecture = table.space.random(rng)
        if suits(architecture):
            drawn[architecture] = None
    if len(drawn) < count:
        raise ValueError(
            f"only {len(drawn)} networks were found that have no block which the device could not run; "
            f"ask for fewer than {count}"
        )
    return list(drawn)


def accuracy(predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
    """Compare predictions with measurements, both positive and of one length.

    Raises:
        ValueError: There are fewer than two, or not as many of both.
    """
    if len(predicted) != len(measured) or len(measured) < 2:
        raise ValueError(f"{len(predicted)} predictions for {len(measured)} measurements; two of each are the least")
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    return Accuracy(
        within_10_percent=sum(error <= 0.1 for error in errors) / len(errors),
        within_5_percent=sum(error <= 0.05 for error in errors) / len(errors),
        kendall_tau=kendall_tau(predicted, measured),
        spearman_rho=spearman_rho(predicted, measured),
        median_error=statistics.median(errors),
        largest_error=max(errors),
    )


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's rank correlation tau-b, NaN where all values of one are equal."""
    signs = [
        ((a > b) - (a < b), (x > y) - (x < y))
        for (a, x), (b, y) in itertools.combinations(list(zip(first, second, strict=True)), 2)
    ]
    ranked = math.prod(sum(sign[i] != 0 for sign in signs) for i in (0, 1))
    return sum(a * b for a, b in signs) / math.sqrt(ranked) if ranked else math.nan


def spearman_rho(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, NaN where all values of one are equal."""
    try:
        return statistics.correlation(_ranks(first), _ranks(second))
    except statistics.StatisticsError:
        return math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]
