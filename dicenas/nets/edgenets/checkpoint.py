"""Reads checkpoint files of EdgeNets' networks. What a file holds decides which network is built."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.nets.backbone import Network
from dicenas.nets.edgenets.weights import load_state_dict
from dicenas.nets.segmentation import SegmentationNetwork, dicenet_segmentation
from dicenas.nets.shufflenetv2 import CHANNELS, dicenet
from dicenas.nets.state_dicts import is_weight

__all__ = ["load_checkpoint", "read_classification", "read_segmentation", "read_state_dict"]

_SHOWN = 5  # keys that a message names


class _Ignored:
    """Stands for numpy's types while a file is read: EdgeNets' training saves its best score as a numpy number."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_IGNORED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file onto the CPU, by EdgeNets' names.

    Args:
        path: A file of ``torch.save``, whichever torch and device wrote it, or a ``.safetensors`` file. It may hold
            the ``state_dict`` itself, or EdgeNets' training state with the ``state_dict`` under that name; the
            ``module.`` that ``DataParallel`` puts before each name is left out.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It holds something else, or is damaged, or names code: nothing but tensors is ever loaded.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        kind = "an empty dictionary" if isinstance(content, Mapping) else f"an object of type {type(content).__name__}"
        raise ValueError(f"{path} holds {kind}, expected a state_dict: tensors by name")
    others = [str(key) for key, value in content.items() if not isinstance(key, str) or not is_weight(value)]
    if others:
        raise ValueError(f"{path} holds no state_dict: {_listed(others)} are not names of dense tensors")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Fill a module with the weights of its EdgeNets counterpart, from a checkpoint file.

    Args:
        module: What :func:`~dicenas.nets.edgenets.load_state_dict` takes.
        path: What :func:`read_state_dict` takes.

    Raises:
        TypeError: EdgeNets has no counterpart of the module.
        OSError: There is no such file, or it cannot be read.
        ValueError: It does not fit; the message names it and the first keys concerned, and the module keeps its
            weights.
    """
    state = read_state_dict(path)
    with _naming(path):
        load_state_dict(module, state)


def read_classification(path: str | Path) -> Network:
    """Build the DiCENet of a classification checkpoint, with its weights.

    Scale, number of classes and native size are those of the file's tensors.

    Args:
        path: What :func:`read_state_dict` takes.

    Raises:
        OSError, ValueError: As :func:`load_checkpoint`.
    """
    state = read_state_dict(path)
    with _naming(path):
        network = dicenet(*_arguments(state, "", "classifier.2.weight", "classification"))
        load_state_dict(network, state)
    return network


def read_segmentation(path: str | Path) -> SegmentationNetwork:
    """Build the segmentation network of a checkpoint, with its weights.

    Scale, number of classes and native size are those of the file's tensors.

    Args:
        path: What :func:`read_state_dict` takes.

    Raises:
        OSError, ValueError: As :func:`load_checkpoint`.
    """
    state = read_state_dict(path)
    with _naming(path):
        last = "eff_pool_128x128.merge_layer.3.weight"
        network = dicenet_segmentation(*_arguments(state, "base_net.", last, "segmentation"))
        load_state_dict(network, state)
    return network


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before the message of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _arguments(state: Mapping[str, Tensor], encoder: str, last: str, kind: str) -> tuple[float, int, tuple[int, int]]:
    """Return scale, number of classes and native size, from the shapes of four tensors."""
    strided = f"{encoder}level4.0.left_layer.0.cbr.0.weight"
    sides = [f"{encoder}level3.0.right_layer.1.conv_{axis}.weight" for axis in ("height", "width")]
    for key in (strided, *sides, last):
        if key not in state:
            raise ValueError(f"this is no {kind} network of DiCENet: missing key {key}; {_kind_of(state)}")
        if state[key].dim() != 4:
            raise ValueError(f"{key} has shape {tuple(state[key].shape)}, expected four dimensions")
    channels = state[strided].shape[0]
    scales = {published[2]: scale for scale, published in CHANNELS.items()}
    if channels not in scales:
        known = ", ".join(map(str, scales))
        raise ValueError(f"{strided} has {channels} channels, and the published networks have one of {known} there")
    # The third level's map is an eighth of the image.
    height, width = (8 * state[key].shape[0] for key in sides)
    return scales[channels], state[last].shape[0], (height, width)


def _kind_of(state: Mapping[str, Tensor]) -> str:
    """Say what a file that holds the wrong network holds."""
    if any(key.startswith("base_net.level3.0.right_layer.1.conv_width") for key in state):
        return "it holds a segmentation network"
    if any(key.startswith("level3.0.right_layer.1.conv_width") for key in state):
        return "it holds a classification network"
    return f"its keys are {_listed(list(state))}"


def _listed(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _read(path: Path) -> Any:
    """Return what a file holds: tensors, and plain containers of them."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a checkpoint file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    path.open("rb").close()  # what the system refuses is told in its own words
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_IGNORED):
            warnings.simplefilter("ignore")  # of old formats; what cannot be read fails below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ValueError(
                f"{path} is refused: it names code ({code[1]}), and a checkpoint holds tensors alone; "
                "save the network's state_dict() instead of the network"
            ) from error
        raise _unreadable(path) from error
    except Exception as error:
        # The readers meet damaged bytes with errors of many kinds.
        raise _unreadable(path) from error


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} is no checkpoint, or a damaged one: expected a file of torch.save or safetensors")
