"""What a candidate op costs by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from dicenas.cost.memory import peak_memory_mb
from dicenas.cost.receptive_field import ReceptiveField, receptive_field
from dicenas.ops import CandidateArguments, build_candidate, candidate_cost, parse_candidate

__all__ = ["CandidateProfile", "build_for_profile", "candidate_fits", "profile_candidate"]

# Channels and size of the output with which the receptive field is found: it depends on neither.
_FEW_CHANNELS = 16
_FIELD_SIZE = 27


@dataclass(frozen=True)
class CandidateProfile:
    """What a candidate op costs for one image, but for the time.

    Attributes:
        macs: Multiply-adds.
        params: Learnable parameters.
        peak_memory_mb: Largest memory of its activations at once, in megabytes (10^6 bytes) of float32.
        receptive_field: What a pixel of its output sees.
    """

    macs: int
    params: int
    peak_memory_mb: float
    receptive_field: ReceptiveField


def candidate_fits(candidate: str, arguments: CandidateArguments) -> bool:
    """Return whether a candidate can serve these arguments.

    Raises:
        ValueError: There is no such candidate.
    """
    op, _ = parse_candidate(candidate)
    return op.supports is None or op.supports(arguments)


def profile_candidate(candidate: str, arguments: CandidateArguments) -> CandidateProfile:
    """Return what a candidate costs.

    Args:
        candidate: Such as ``"dice_k3"``.
        arguments: With which a block would call it; its kernel size is that of the candidate.

    Raises:
        ValueError: There is no such candidate, or it does not fit.
    """
    a = replace(arguments, kernel_size=parse_candidate(candidate)[1])
    cost = candidate_cost(candidate, a)
    memory_mb = peak_memory_mb(build_for_profile(candidate, a), (a.in_channels, *a.in_size))
    return CandidateProfile(cost.macs, cost.params, memory_mb, _receptive_field(candidate, a))


def build_for_profile(candidate: str, arguments: CandidateArguments) -> nn.Module:
    """Build a candidate; its kernel size is its own, the other arguments are as given.

    Raises:
        ValueError: There is no such candidate, or it does not fit.
    """
    a = arguments
    return build_candidate(candidate, a.in_channels, a.out_channels, a.stride, a.size, a.activation, a.final_activation)


def _receptive_field(candidate: str, a: CandidateArguments) -> ReceptiveField:
    out_channels = _FEW_CHANNELS if a.in_channels == a.out_channels else 2 * _FEW_CHANNELS
    few = replace(a, in_channels=_FEW_CHANNELS, out_channels=out_channels)
    if candidate_fits(candidate, few):
        a = few
    in_size = _FIELD_SIZE * a.stride
    small = replace(a, size=(_FIELD_SIZE, _FIELD_SIZE), in_size=(in_size, in_size))
    with torch.random.fork_rng(devices=[]):  # the same weights each time
        torch.manual_seed(0)
        module = build_for_profile(candidate, small)
    return receptive_field(module, (small.in_channels, *small.in_size))
