"""Candidate ops as a dictionary of modules: what NNI's ``LayerChoice`` takes, and ``nn.ModuleDict``."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from dicenas.ops import CandidateArguments, build_candidate, expand_candidates, parse_candidate

__all__ = ["DEFAULT_OPS", "layer_choices"]

#: Ops offered by default.
DEFAULT_OPS = ("separable", "separable_se", "dice", "skip")


def layer_choices(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    size: tuple[int, int],
    ops: Iterable[str] = DEFAULT_OPS,
    activation: str = "prelu",
    final_activation: bool = True,
) -> dict[str, nn.Module]:
    """Return the candidate ops that fit here, by name; each maps ``(N, in, sH, sW)`` to ``(N, out, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        size: ``(H, W)`` of the *output*.
        ops: Names of ops or candidates; an op's name stands for all its kernel sizes.
        activation: Name of the activation.
        final_activation: Whether the output is activated.

    Raises:
        ValueError: An op or activation that does not exist, or no op that fits.

    Example:
        >>> LayerChoice(layer_choices(64, 64, size=(28, 28)), label="block3")
    """
    fitting: dict[str, nn.Module] = {}
    for candidate in expand_candidates(ops):
        op, kernel_size = parse_candidate(candidate)
        arguments = CandidateArguments(
            in_channels, out_channels, stride, size, kernel_size, activation, final_activation
        )
        if op.supports is None or op.supports(arguments):
            fitting[candidate] = build_candidate(
                candidate, in_channels, out_channels, stride, size, activation, final_activation
            )
    if not fitting:
        raise ValueError(
            f"none of the ops {', '.join(ops)} maps {in_channels} to {out_channels} channels at stride {stride}"
        )
    return fitting
