"""DiCENet as a model of timm: a backbone for detection, and a classifier for other classes.

Run: python examples/timm_features.py
"""

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.optim import create_optimizer_v2
from torch import nn

import dicenas.integrations.timm  # noqa: F401  (registers the models)


def main() -> None:
    """Build a feature pyramid on three maps, then change the classifier and take a training step."""
    print(f"models: {', '.join(timm.list_models('dicenet*'))}")

    backbone = timm.create_model("dicenet_020", features_only=True, out_indices=(2, 3, 4)).eval()
    laterals = nn.ModuleList(nn.Conv2d(channels, 32, 1) for channels in backbone.feature_info.channels())
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 224, 224))
    for reduction, features, lateral in zip(backbone.feature_info.reduction(), maps, laterals, strict=True):
        print(f"1/{reduction} of the image: {tuple(features.shape)} -> {tuple(lateral(features).shape)}")

    model = timm.create_model("dicenet_020", num_classes=1000, img_size=96)
    model.reset_classifier(5)
    print(f"transform: {create_transform(**resolve_data_config({'input_size': (3, 96, 96)}, model=model))}")
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    logits = model(torch.randn(4, 3, 96, 96))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    print(f"one training step taken, {len(optimizer.param_groups)} groups of parameters, logits {tuple(logits.shape)}")


if __name__ == "__main__":
    main()
