"""Zero-cost proxies as an evaluator, and beside one: as a cost that is known before training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dicenas.architecture import Architecture
from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import checked_device
from dicenas.evaluation.evaluators import Evaluator, Report
from dicenas.evaluation.proxies import check_proxies, proxy_scores
from dicenas.evaluation.reference_sample import ReferenceSample
from dicenas.evaluation.sampling import balanced_subset
from dicenas.files import read_json, write_json
from dicenas.nets import build
from dicenas.space import SpaceSpec

__all__ = ["FilteredEvaluator", "ProxyConfig", "ProxyEvaluator"]

logger = logging.getLogger(__name__)

_FILE = "proxies.json"
_SCHEMA_VERSION = 1
#: Draws of an architecture for each one that the reference sample is to have.
_DRAWS = 20


@dataclass(frozen=True)
class ProxyConfig:
    """Which proxies score an architecture, and on what.

    Attributes:
        proxies: Names, some of :data:`~dicenas.evaluation.PROXIES`.
        sample: Random architectures of the space among which others are ranked.
        batch: Training images that networks are scored on.
        seed: Fixes the images, the random architectures and the initial weights of their networks.

    Raises:
        ValueError: Values out of range, one line for each.
    """

    proxies: tuple[str, ...] = ("naswot", "synflow")
    sample: int = 100
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        try:
            object.__setattr__(self, "proxies", check_proxies(self.proxies))
        except ValueError as error:
            problems.append(f"proxies: {error}")
        for name, lowest in (("sample", 2), ("batch", 2), ("seed", 0)):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                problems.append(f"{name}: {value!r}, expected a whole number, {lowest} or more")
        if problems:
            raise ValueError("\n".join(problems))


class ProxyEvaluator(Evaluator):
    """Scores architectures by zero-cost proxies, without training them.

    An architecture is scored once, by a network that is built for it: all start from weights of the same seed.

    Scores of different proxies are no sum of anything: each is turned into a rank, and ranks are averaged. A rank says
    where a score stands among those of a random sample of the space, the reference sample: 0 at its worst network, 1 at
    its best, linear in between from network to network. Beyond its ends it goes on linearly, as from its middle to the
    end, so that a search can tell networks apart that are better than any of the sample.

    The sample is scored by :meth:`prepare`, which keeps it in its folder, or else when it is first needed. ``costs``
    holds ``proxy_rank``, the share of the sample that has a higher ``proxy_score``: a constraint on it,
    ``proxy_rank <= 0.5`` say, passes over what the proxies put into the worse half of the space.

    Args:
        space: The space.
        data: Images to score on; a network gets them in its own size.
        config: The proxies.
        device: Where to run.

    Raises:
        ValueError: The data has other classes than the space, or the device is not there.
    """

    trains_network = False

    def __init__(
        self, space: SpaceSpec, data: Data, config: ProxyConfig | None = None, device: str | torch.device = "cpu"
    ) -> None:
        if data.num_classes != space.num_classes:
            raise ValueError(f"the space has {space.num_classes} classes, the data {data.num_classes}")
        self._space = space
        self._data = data
        self._config = config or ProxyConfig()
        self._device = checked_device(device)
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}
        self._scores: dict[str, dict[str, float]] = {}
        self._reference: ReferenceSample | None = None

    def prepare(self, folder: Path) -> None:
        """Score the reference sample, or read it where it is scored; what was interrupted is gone on with.

        Raises:
            ValueError: The folder holds the sample of another space or other settings, or a damaged file; a proxy
                gives no number for most of the sample, or has the same value for all of it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._score_sample(folder / _FILE)

    @property
    def costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """``proxy_rank``, 0 to 1: 0 where no network of the reference sample has a higher ``proxy_score``."""
        return {"proxy_rank": self._proxy_rank}

    @property
    def sample_scores(self) -> Mapping[Architecture, float]:
        """The ``proxy_score`` of each network of the reference sample, best first."""
        return self._sampled().scores

    def __call__(self, architecture: Architecture, net: nn.Module | None, report: Report) -> Mapping[str, float]:
        """Score an architecture.

        Args:
            architecture: The architecture.
            net: Not used; may be ``None``.
            report: Not called.

        Returns:
            Each proxy's score by its name, and ``proxy_score``, the mean of their ranks in the reference sample.

        Raises:
            ValueError: A score is no finite number.
        """
        scores = self._score(architecture)
        return {**scores, "proxy_score": self._sampled().score(scores)}

    def _proxy_rank(self, architecture: Architecture) -> float:
        reference = self._sampled()
        return reference.share_above(reference.score(self._score(architecture)))

    def _sampled(self) -> ReferenceSample:
        return self._reference or self._score_sample(None)

    def _score_sample(self, path: Path | None) -> ReferenceSample:
        """Score what is not scored yet of the reference sample, and keep it in a file."""
        identity = {
            "schema_version": _SCHEMA_VERSION,
            "space": self._space.fingerprint,
            "proxies": list(self._config.proxies),
            "sample": self._config.sample,
            "batch": self._config.batch,
            "seed": self._config.seed,
        }
        failed: dict[str, str] = {}
        if path is not None and path.exists():
            self._scores |= _read(path, identity, self._config.proxies)
        wanted = self._sample()
        label = "scoring the reference sample"
        for architecture in tqdm(wanted, desc=label, unit="net", delay=2, leave=False, disable=None):
            if architecture.hash not in self._scores:
                try:
                    self._score(architecture)
                except ValueError as error:
                    failed[architecture.hash] = str(error)
                    logger.warning("architecture %s is left out of the reference sample: %s", architecture.hash, error)
                    continue
                if path is not None:
                    self._write(path, identity, wanted)
        if path is not None:
            self._write(path, identity, wanted)
        scored = [architecture for architecture in wanted if architecture.hash in self._scores]
        if len(scored) < max(2, len(wanted) / 2):
            reason = next(iter(failed.values()), "the space holds no more")
            raise ValueError(
                f"of {len(wanted)} networks of the reference sample {len(scored)} could be scored, too few to rank "
                f"others among: {reason}"
            )
        self._reference = ReferenceSample(scored, [self._scores[a.hash] for a in scored], self._config.proxies)
        return self._reference

    def _write(self, path: Path, identity: Mapping[str, object], wanted: Sequence[Architecture]) -> None:
        scores = {a.hash: self._scores[a.hash] for a in wanted if a.hash in self._scores}
        write_json(path, {**identity, "scores": scores})

    def _sample(self) -> list[Architecture]:
        """Return distinct random architectures, all of a space that has no more."""
        if self._space.size <= self._config.sample:
            return list(self._space.enumerate())
        rng = Random(self._config.seed)
        drawn: dict[Architecture, None] = {}
        for _ in range(_DRAWS * self._config.sample):
            drawn[self._space.random(rng)] = None
            if len(drawn) == self._config.sample:
                break
        return list(drawn)

    def _score(self, architecture: Architecture) -> dict[str, float]:
        """Score an architecture by a network of our own, once."""
        if architecture.hash not in self._scores:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._config.seed)
                net = build(architecture).to(self._device)
            images, labels = self._batch(architecture.image_size[0])
            self._scores[architecture.hash] = proxy_scores(net, images, labels, self._config.proxies)
        return self._scores[architecture.hash]

    def _batch(self, image_size: int) -> tuple[Tensor, Tensor]:
        """Return the same training images in every size, as many of each class as of any other."""
        if image_size not in self._batches:
            train = self._data.train
            chosen = balanced_subset(train.labels, min(self._config.batch, len(train)), self._config.seed)
            images, labels = next(self._data.at_size(image_size).train.batches(chosen, len(chosen)))
            self._batches[image_size] = (self._data.normalize(images.to(self._device)), labels.to(self._device))
        return self._batches[image_size]


class FilteredEvaluator(Evaluator):
    """An evaluator that trains, with proxies beside it that say before training what is worth it.

    Its ``costs`` are those of both, with ``proxy_rank`` among them; its ``suggestions`` are the reference sample.

    Args:
        evaluator: What evaluates architectures.
        proxies: What scores them before.
    """

    trains_network = True

    def __init__(self, evaluator: Evaluator, proxies: ProxyEvaluator) -> None:
        self._evaluator = evaluator
        self._proxies = proxies

    def prepare(self, folder: Path) -> None:
        self._proxies.prepare(folder / "proxy")
        self._evaluator.prepare(folder)

    @property
    def costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        return {**self._evaluator.costs, **self._proxies.costs}

    @property
    def suggestions(self) -> Mapping[Architecture, float]:
        return self._proxies.sample_scores

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        return self._evaluator(architecture, net, report)


def _read(path: Path, identity: Mapping[str, object], proxies: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return scores by architecture from a file of the same identity."""
    again = "remove it, and the sample is scored again"
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from error
    try:
        different = [name for name, value in identity.items() if content[name] != value]
        scores = {key: {name: float(row[name]) for name in proxies} for key, row in content["scores"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {again}") from error
    if different:
        raise ValueError(f"{path} is of another {', '.join(different)}; {again}")
    if not all(math.isfinite(score) for row in scores.values() for score in row.values()):
        raise ValueError(f"{path} is damaged (a score is no number); {again}")
    return scores
