"""Networks by name."""

from __future__ import annotations

import pytest

from dicenas.nets import dicenet_architecture, list_nets, mobilenetv2_architecture, net_architecture


def test_names() -> None:
    assert list_nets() == [
        *(f"dicenet_{scale}" for scale in ("010", "020", "050", "075", "100", "125", "150", "175", "200", "240")),
        *(f"mobilenetv2_{width}" for width in ("050", "075", "100", "140")),
    ]


def test_architectures() -> None:
    assert net_architecture("dicenet_075") == dicenet_architecture(0.75)
    assert net_architecture("mobilenetv2_140", 10, (64, 96)) == mobilenetv2_architecture(1.4, 10, (64, 96))
    assert len({net_architecture(name).hash for name in list_nets()}) == len(list_nets())


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'dicenet_110'; did you mean 'dicenet_\d+'.*mobilenetv2_140"):
        net_architecture("dicenet_110")
