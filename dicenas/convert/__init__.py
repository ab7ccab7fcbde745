"""Puts a candidate op in place of the separable convolutions of any network, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from dicenas.convert.sites import SeparableSite, find_separable_convolutions, find_sites, make_image
from dicenas.cost.trace import trace_modules
from dicenas.ops import Cost, build_op, list_ops, parse_candidate

__all__ = ["ConversionError", "ConversionReport", "SeparableSite", "convert", "find_separable_convolutions"]

_SHOWN = 4  # names that a report gives for one reason


class ConversionError(RuntimeError):
    """A network does not run: on such images, or with the new ops in it; then it was put back as it was."""


#: Which sites to replace: a function, or one or several patterns of names such as ``"features.1[0-9].*"``.
Where: TypeAlias = Callable[[SeparableSite], bool] | str | Sequence[str]


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert` did.

    Attributes:
        model: The network, the very one that was given.
        op: The op that was put in.
        replaced: The separable convolutions that it replaced.
        left: Name of each depth-wise convolution that stayed, and why.
        before: Multiply-adds for one image and parameters before.
        after: The same afterwards.
    """

    model: nn.Module
    op: str
    replaced: tuple[SeparableSite, ...]
    left: dict[str, str]
    before: Cost
    after: Cost

    def summary(self) -> str:
        """Return what was replaced, and what was left and why, a line each."""
        number = len(self.replaced)
        plural = "" if number == 1 else "s"
        lines = [f"replaced {number} separable convolution{plural} by {self.op}, left {len(self.left)}"]
        for site in self.replaced:
            height, width = site.size
            lines.append(
                f"  {site.name} … {site.pointwise}: {site.in_channels} to {site.out_channels} channels, "
                f"{height}×{width}, stride {site.stride}"
            )
        for reason in dict.fromkeys(self.left.values()):
            names = [name for name, given in self.left.items() if given == reason]
            lines.append(f"  left {_listed(names)}: {reason}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return (
            f"{self.summary()}\nFLOPs (MACs) {self.before.macs:,} -> {self.after.macs:,}\n"
            f"params {self.before.params:,} -> {self.after.params:,}"
        )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def convert(
    model: nn.Module,
    image_size: int | tuple[int, int],
    op: str = "dice",
    where: Where | None = None,
    *,
    in_channels: int = 3,
) -> ConversionReport:
    """Replace the separable convolutions of a network by a registered op, in place.

    A separable convolution is a depth-wise convolution whose result reaches, through norms, activations and
    squeeze-and-excitation alone, a point-wise convolution (or a linear layer over the channels, as in ConvNeXt). The
    op takes the place of them all and of the norm and activation behind. What follows what is read off a run of the
    network, so the network may be any module, and needs no sizes written down.

    The new ops have fresh weights: train the network, or at least fine-tune it.

    Args:
        model: The network; images ``(N, in_channels, H, W)`` are its only required input.
        image_size: Size of the images, an int or ``(H, W)``: the ops' native sizes follow from it.
        op: Name of a registered op (:func:`dicenas.ops.list_ops`), or of a candidate such as ``"dice_k5"``.
        where: Which of them to replace; by default all.
        in_channels: Channels of the images.

    Raises:
        ValueError: The op does not exist, the image size is no size, or ``where`` matches nothing that is there.
        ConversionError: The network does not run on such images, or not with the new ops; it is left as it was.

    Example:
        >>> model = torchvision.models.mobilenet_v2()
        >>> print(dicenas.convert(model, 224, where="features.1?.*"))
    """
    kernel_size = None
    name = op
    if op not in list_ops():
        info, kernel_size = parse_candidate(op)
        name = info.name
    image = make_image(model, in_channels, image_size)
    try:
        trace = trace_modules(model, image)
    except Exception as error:
        raise ConversionError(f"the network does not run on an image {tuple(image.shape)}: {error}") from error
    sites, left = find_sites(model, trace)
    chosen = _choose(sites, left, where)

    built: list[tuple[SeparableSite, nn.Module]] = []  # all of them, before the first takes its place
    undo: list[tuple[str, nn.Module]] = []
    for site in chosen:
        kind = "prelu" if site.activation is None else site.activation
        depthwise = model.get_submodule(site.name)
        try:
            new = build_op(
                name,
                site.in_channels,
                site.out_channels,
                stride=site.stride,
                size=site.size,
                kernel_size=kernel_size,
                activation=kind,
                final_activation=site.final_activation,
            )
        except ValueError as error:
            left[site.name] = str(error)
            continue
        assert isinstance(depthwise, nn.Conv2d)
        built.append((site, new.to(depthwise.weight.device, depthwise.weight.dtype).train(depthwise.training)))
    for site, new in built:
        undo += [(path, model.get_submodule(path)) for path in (site.name, site.pointwise, *site.absorbed)]
        _set_submodule(model, site.name, new)
        for path in (site.pointwise, *site.absorbed):
            _set_submodule(model, path, nn.Identity())

    try:
        after = trace_modules(model, image)
    except Exception as error:
        _restore(model, undo)
        raise ConversionError(f"the network does not run with {op} in it and was put back: {error}") from error
    if after.output_shapes != trace.output_shapes:
        _restore(model, undo)
        raise ConversionError(
            f"with {op} the network's output has shapes {after.output_shapes} instead of {trace.output_shapes}; "
            "it was put back"
        )
    return ConversionReport(model, op, tuple(site for site, _ in built), left, trace.cost, after.cost)


def _choose(sites: Sequence[SeparableSite], left: dict[str, str], where: Where | None) -> list[SeparableSite]:
    if where is None:
        return list(sites)
    if callable(where):
        chosen = [site for site in sites if where(site)]
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in (*left, *(site.name for site in sites))):
                known = ", ".join(site.name for site in sites) or "none"
                raise ValueError(f"where: {pattern!r} matches no separable convolution (there are: {known})")
        chosen = [site for site in sites if any(fnmatchcase(site.name, pattern) for pattern in patterns)]
    left.update({site.name: "not chosen" for site in sites if site not in chosen})
    return chosen


def _set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    # Item assignment, not setattr: some containers keep numbers for names.
    model.get_submodule(parent)._modules[child] = module


def _restore(model: nn.Module, undo: Sequence[tuple[str, nn.Module]]) -> None:
    for name, module in reversed(undo):
        _set_submodule(model, name, module)
