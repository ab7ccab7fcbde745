"""A network cut from a supernet has running statistics of its own only once it is recalibrated."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F

from dicenas.evaluation import DataConfig, evaluate, load_data, recalibrate
from dicenas.evaluation.supernet import Supernet
from dicenas.export import export_network
from dicenas.nets import build
from dicenas.space import SpaceSpec


def test_recalibrated_network_is_the_one_that_is_exported(tmp_path: Path) -> None:
    data = load_data(DataConfig("digits", image_size=32, train_limit=400, val_limit=100))
    spec = SpaceSpec(
        "shufflenetv2",
        ("separable_k3", "separable_k5"),
        widths=(0.2,),
        depths=((1,), (1,), (1,)),
        stems=("small",),
        resolutions=(32,),
        num_classes=10,
    )
    supernet = Supernet(spec).train()
    optimizer = torch.optim.Adam(supernet.parameters(), lr=5e-3)
    rng = random.Random(0)
    for _ in range(6):
        for images, labels in data.train.batches(torch.randperm(len(data.train)), 50):
            optimizer.zero_grad()
            F.cross_entropy(supernet(data.normalize(images), spec.random(rng)), labels).backward()
            optimizer.step()

    architecture = spec.random(rng)
    network = build(architecture)
    supernet.copy_to(network, architecture)
    before = evaluate(network, data)["accuracy"]
    recalibrate(network, data, batches=4, batch=100)
    after = evaluate(network, data)["accuracy"]
    assert after > before + 0.2

    export_network(network, tmp_path / "net", ("py", "safetensors", "torchscript"))
    exported = torch.jit.load(tmp_path / "net" / "model.ts")
    assert evaluate(exported, data)["accuracy"] == after
