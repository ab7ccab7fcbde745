"""Tests of dicenas.integrations.timm: the sweep that timm runs over its own models, over ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from timm.models import group_parameters, save_for_hf
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import dicenas
import dicenas.integrations.timm as ours
from dicenas.export import export_network
from dicenas.nets import net_architecture

SCALES = ("010", "020", "050", "075", "100", "125", "150", "175", "200", "240")
DICENETS = [f"dicenet_{scale}" for scale in SCALES]
OTHERS = ["mobilenetv1_025", "mobilenetv2_035", "mobilenetv3_small", "resnet_016", "shufflenetv2_x0_5"]
QUICK = ["dicenet_010", *OTHERS]
SIZE = 64


def create(name: str, **kwargs: Any) -> Any:
    """A small one of a model: DiCENets by name, networks of other backbones by their architecture."""
    if name.startswith("dicenet"):
        return timm.create_model(name, **{"img_size": SIZE, **kwargs})
    architecture = net_architecture(name, image_size=SIZE).to_dict()
    return timm.create_model("dicenas_network", architecture=architecture, **kwargs)


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 3, SIZE, SIZE))


def test_models_are_listed() -> None:
    assert timm.list_models("dicenet*") == DICENETS
    assert all(timm.is_model(name) for name in [*DICENETS, "dicenas_network"])
    assert timm.list_models("dicenet*", pretrained=True) == []


@pytest.mark.parametrize("name", [*DICENETS, *OTHERS])
def test_outputs_are_those_of_the_network_itself(name: str) -> None:
    model = create(name, num_classes=10).eval()
    network = dicenas.build(net_architecture(name, 10, SIZE)).eval()
    network.load_state_dict(model.state_dict())
    assert model.architecture == network.architecture
    x = images()
    with torch.no_grad():
        logits = model(x)
        torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-6)
        assert torch.equal(model.forward_head(model.forward_features(x)), logits)
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("name", ["dicenet_010", "mobilenetv3_small"])
def test_every_parameter_learns(name: str) -> None:
    model = create(name, num_classes=7).train()
    model(images(2, 3, SIZE, SIZE)).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", QUICK)
def test_configuration_and_classifier(name: str) -> None:
    model = create(name).eval()
    config, state = model.default_cfg, model.state_dict()
    assert config is model.pretrained_cfg
    for layer in (config["classifier"], config["first_conv"]):
        assert f"{layer}.weight" in state
    assert state[f"{config['classifier']}.weight"].shape[0] == config["num_classes"] == model.num_classes == 1000
    assert model.get_classifier() is model.get_submodule(config["classifier"])
    x = images(1, 3, SIZE, SIZE)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, 2, 2)
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
        model.reset_classifier(5)
        assert model(x).shape == (1, 5)
        assert model.architecture.num_classes == 5
        model.reset_classifier(0)
        assert model(x).shape == (1, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert model(x).shape == (1, model.head_hidden_size, 2, 2)
        model.reset_classifier(6)  # a map of logits, since nothing is pooled
        assert model(x).shape == (1, 6, 2, 2)
    bare = create(name, num_classes=0, global_pool="").eval()
    with torch.no_grad():
        assert bare(x).shape == (1, bare.head_hidden_size, 2, 2)
    assert bare.num_classes == 0


def test_published_size_and_pool_size() -> None:
    model = timm.create_model("dicenet_010")
    assert model.default_cfg["input_size"] == (3, 224, 224)
    assert model.default_cfg["pool_size"] == (7, 7)
    assert model.forward_features(torch.zeros(1, 3, 224, 224)).shape == (1, 64, 7, 7)
    assert timm.create_model("dicenet_010", img_size=(64, 96)).architecture.image_size == (64, 96)


def test_a_fresh_classifier_starts_as_the_network_s() -> None:
    torch.manual_seed(0)
    model = create("mobilenetv2_035").train()
    before = model.get_classifier().weight.std().item()
    model.reset_classifier(1000)
    assert model.get_classifier().training
    assert model.get_classifier().weight.std().item() == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("pool", ["max", "avgmax", "fast"])
def test_other_poolings(pool: str) -> None:
    model = create("dicenet_010", global_pool=pool).eval()
    x = images()
    with torch.no_grad():
        features = model.forward_features(x)
        pooled = {"max": features.amax((2, 3)), "fast": features.mean((2, 3))}
        pooled["avgmax"] = (pooled["max"] + pooled["fast"]) / 2
        expected = model.head.classifier(model.head.expand(pooled[pool][:, :, None, None])).flatten(1)
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("pool", ["catavgmax", "median"])
def test_poolings_that_there_are_not(pool: str) -> None:
    with pytest.raises(ValueError, match=f"global_pool '{pool}' should be one of 'avg', 'max'"):
        create("dicenet_010", global_pool=pool)


@pytest.mark.parametrize("name", QUICK)
def test_features_only(name: str) -> None:
    backbone = create(name, features_only=True).eval()
    x = images(1, 3, SIZE, SIZE)
    with torch.no_grad():
        maps = backbone(x)
    info = backbone.feature_info
    assert info.reduction() == [2, 4, 8, 16, 32]
    assert [m.shape[1] for m in maps] == info.channels()
    assert [m.shape[2] for m in maps] == [SIZE // reduction for reduction in info.reduction()]
    assert "num_classes" not in backbone.default_cfg
    last = create(name, features_only=True, out_indices=(1, -1)).eval()
    assert last.feature_info.reduction() == [4, 32]
    last.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(last(x), (maps[1], maps[4]), strict=True))


@pytest.mark.parametrize("kind", ["dict", "hook", "getter", "fx"])
def test_features_by_every_class_of_timm(kind: str) -> None:
    torch.manual_seed(0)
    expected = create("dicenet_010", features_only=True, out_indices=(2, 4)).eval()
    torch.manual_seed(0)
    backbone = create("dicenet_010", features_only=True, out_indices=(2, 4), feature_cls=kind).eval()
    x = images()
    with torch.no_grad():
        maps = backbone(x)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        for found, wanted in zip(maps, expected(x), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["dicenet_010", "mobilenetv3_small"])
def test_intermediates(name: str) -> None:
    model = create(name).eval()
    x = images()
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x))
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
        (third,) = model.forward_intermediates(x, indices=[2], stop_early=True, intermediates_only=True)
        assert torch.equal(third, maps[2])
        with pytest.raises(ValueError, match="NCHW"):
            model.forward_intermediates(x, output_fmt="NHWC")
        with pytest.raises(ValueError, match="intermediates_only"):
            model.forward_intermediates(x, stop_early=True)
        assert model.prune_intermediate_layers([2]) == [2]
        assert torch.equal(model(x), maps[2])
    assert model.num_features == maps[2].shape[1]
    assert not any(key.startswith(("head", "stages.2")) for key in model.state_dict())


def test_small_images_have_fewer_maps() -> None:
    architecture = dicenas.Architecture("shufflenetv2", 0.1, (("dice_k3",),) * 3, "small", (32, 32), 10).to_dict()
    backbone = timm.create_model("dicenas_network", architecture=architecture, features_only=True)
    assert backbone.feature_info.reduction() == [1, 2, 4, 8]
    assert [m.shape[-1] for m in backbone(images(1, 3, 32, 32))] == [32, 16, 8, 4]


@pytest.mark.parametrize("name", QUICK)
def test_other_channels_than_three(name: str) -> None:
    model = create(name, in_chans=5, num_classes=3).eval()
    assert model(images(1, 5, SIZE, SIZE)).shape == (1, 3)
    assert model.in_chans == 5


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = create("dicenet_010", num_classes=4, drop_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        model(images(4, 3, SIZE, SIZE)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_groups_of_parameters() -> None:
    model = create("dicenet_010")
    blocks = group_parameters(model, model.group_matcher())
    assert len(blocks) == 1 + sum(map(len, model.stages)) + 1  # stem, blocks, head
    assert sum(map(len, blocks.values())) == len(list(model.parameters()))
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 1 + 3 + 1


def test_dropout() -> None:
    assert create("dicenet_100").drop_rate == 0.1
    assert create("dicenet_200").drop_rate == 0.2
    model = create("dicenet_010", drop_rate=1.0).train()
    features = torch.randn(2, model.num_features, 2, 2)
    assert torch.equal(model.forward_head(features), model.get_classifier().bias.expand(2, -1))
    assert not torch.equal(model.eval().forward_head(features), model.get_classifier().bias.expand(2, -1))


def test_device_and_type() -> None:
    model = create("dicenet_010", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_a_step_with_timm_s_own_tools() -> None:
    model = create("dicenet_010", num_classes=4).train()
    optimizer = create_optimizer_v2(model, "lamb", lr=0.1, weight_decay=0.05, layer_decay=0.7)
    scheduler, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=2)
    ema = ModelEmaV3(model, decay=0.5)
    before = {key: value.clone() for key, value in ema.module.state_dict().items()}
    nn.functional.cross_entropy(model(images()), torch.tensor([0, 3])).backward()
    optimizer.step()
    scheduler.step(1)
    ema.update(model)
    assert epochs == 2
    rates = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(rates) == 1 + sum(map(len, model.stages)) + 1
    after = ema.module.state_dict()
    assert any(not torch.equal(after[key], before[key]) for key in before)
    network = dicenas.build(model.architecture)
    network.load_state_dict(model.state_dict())


def test_data_configuration() -> None:
    model = timm.create_model("dicenet_100", device="meta")
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (3, 224, 224)
    assert config["interpolation"] == "bilinear"
    assert config["mean"] == (0.485, 0.456, 0.406)


def test_weights_of_edgenets(reference: Path, tmp_path: Path) -> None:
    arrays = np.load(reference / "reference" / "models" / "state_s0.1_salt0_f64.npz")
    upstream = {name: torch.from_numpy(arrays[name]).to(torch.float32) for name in arrays.files}
    network = dicenas.dicenet(0.1).eval()
    dicenas.nets.edgenets.load_state_dict(network, upstream)
    torch.save(upstream, tmp_path / "dicenet.pth")
    weights = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "dicenet.pth")}}
    model = timm.create_model("dicenet_010", **weights).eval()
    x = images(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=1e-5, atol=1e-5)
    tuned = timm.create_model("dicenet_010", num_classes=4, in_chans=1, **weights).eval()
    assert torch.equal(tuned.head.expand.weight, network.head.expand.weight)
    assert tuned(images(1, 1, 224, 224)).shape == (1, 4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    architecture = dicenas.Architecture("mobilenetv2", 0.25, (("dice_k3",),) * 7, "small", (32, 32), 3)
    names = ["cat", "dog", "newt"]
    folder = tmp_path_factory.mktemp("exported") / "my-network"
    export_network(
        dicenas.build(architecture), folder, class_names=names, normalization=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    )
    return folder


def test_an_exported_network_is_a_model(exported: Path, tmp_path: Path) -> None:
    name = ours.register_exported(exported)
    assert name == "my_network"
    assert timm.list_models("my_net*", pretrained=True) == [name]
    model = timm.create_model(name, pretrained=True).eval()
    network = dicenas.build(dicenas.Architecture.load(exported / "architecture.json")).eval()
    network.load_state_dict(load_file(exported / "model.safetensors"))
    x = images(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(model(x), logits)
    config = resolve_data_config({}, model=model)
    assert (config["input_size"], config["mean"], config["std"]) == ((3, 32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert model.default_cfg["label_names"] == ("cat", "dog", "newt")
    tuned = timm.create_model(name, pretrained=True, num_classes=2, in_chans=1).eval()
    assert all(torch.equal(a, b) for a, b in zip(tuned.stages.parameters(), model.stages.parameters(), strict=True))
    assert tuned(images(1, 1, 32, 32)).shape == (1, 2)
    assert len(timm.create_model(name, pretrained=True, features_only=True)(x)) == 5

    # Saved by timm, it is a model wherever this package is: neither the folder nor its name is needed.
    save_for_hf(model, str(tmp_path / "saved"))
    torch.save((x, logits), tmp_path / "expected.pt")
    source = (
        "import timm, torch\nimport dicenas.integrations.timm\n"
        "x, logits = torch.load('expected.pt')\n"
        "model = timm.create_model('local-dir:saved', pretrained=True).eval()\n"
        "torch.testing.assert_close(model(x), logits)\nprint(model.default_cfg['label_names'])\n"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "newt" in done.stdout


def test_what_cannot_be_registered(exported: Path, tmp_path: Path) -> None:
    for taken in ("resnet18", "dicenet_100", "build"):
        with pytest.raises(ValueError, match=f"the name '{taken}' is taken"):
            ours.register_exported(exported, taken)
    with pytest.raises(ValueError, match="'my network' is no name for a model"):
        ours.register_exported(exported, "my network")
    with pytest.raises(FileNotFoundError, match=r"architecture\.json"):
        ours.register_exported(tmp_path)
    shutil.copy(exported / "architecture.json", tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not hold the weights of its architecture \(head\.classifier\.bias"):
        ours.register_exported(tmp_path, "folded")


def test_what_cannot_be_created() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for dicenet_100"):
        timm.create_model("dicenet_100", pretrained=True)
    with pytest.raises(ValueError, match="num_classes -1"):
        create("dicenet_010").reset_classifier(-1)
    with pytest.raises(ValueError, match="schema version"):
        timm.create_model("dicenas_network", architecture={})


def test_without_timm() -> None:
    source = "import sys\nsys.modules['timm'] = None\nimport dicenas.integrations.timm"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "dicenas.integrations.timm needs timm: pip install 'dicenas[export]' brings it" in done.stderr
