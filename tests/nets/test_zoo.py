"""Networks by name."""

from __future__ import annotations

import pytest

from dicenas.nets import (
    architecture_cost,
    dicenet_architecture,
    list_nets,
    mnasnet_architecture,
    mobilenetv1_architecture,
    mobilenetv2_architecture,
    mobilenetv3_architecture,
    net_architecture,
    resnet_architecture,
    shufflenetv2_architecture,
)


def test_names() -> None:
    assert list_nets() == [
        *(f"dicenet_{scale}" for scale in ("010", "020", "050", "075", "100", "125", "150", "175", "200", "240")),
        *(f"mnasnet_{width}" for width in ("050", "075", "100", "130")),
        *(f"mobilenetv1_{width}" for width in ("025", "050", "075", "100")),
        *(f"mobilenetv2_{width}" for width in ("035", "050", "075", "100", "140")),
        *("mobilenetv3_large", "mobilenetv3_small"),
        *(f"resnet_{width}" for width in ("016", "025", "037")),
        *(f"shufflenetv2_edgenets_{width}" for width in ("010", "050", "100", "150", "200")),
        *(f"shufflenetv2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    ]


def test_architectures() -> None:
    assert net_architecture("dicenet_075") == dicenet_architecture(0.75)
    assert net_architecture("mobilenetv1_050", 10, 64) == mobilenetv1_architecture(0.5, 10, 64)
    assert net_architecture("mobilenetv2_140", 10, (64, 96)) == mobilenetv2_architecture(1.4, 10, (64, 96))
    assert net_architecture("mobilenetv3_large", 10, 64) == mobilenetv3_architecture("large", 1.0, 10, 64)
    assert net_architecture("mnasnet_130", 10) == mnasnet_architecture(1.3, 10)
    assert net_architecture("resnet_025", 10) == resnet_architecture(0.25, 10)
    assert net_architecture("shufflenetv2_x1_5", 10) == shufflenetv2_architecture(1.5, "torchvision", 10)
    assert net_architecture("shufflenetv2_edgenets_010") == shufflenetv2_architecture(0.1, "edgenets")
    assert len({net_architecture(name).hash for name in list_nets()}) == len(list_nets())


def test_every_network_exists() -> None:
    for name in list_nets():
        # Their ops are registered and fit where they stand; what they build is held elsewhere.
        assert architecture_cost(net_architecture(name)).macs > architecture_cost(net_architecture(name, 3, 64)).macs


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'dicenet_110'; did you mean 'dicenet_\d+'.*mobilenetv2_140"):
        net_architecture("dicenet_110")
