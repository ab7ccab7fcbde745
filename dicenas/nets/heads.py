"""Heads that several backbones share: from the last map to logits."""

from __future__ import annotations

from torch import Tensor, nn

from dicenas.ops import ConvNormAct, Cost, conv_cost, conv_norm_act_cost, make_activation

__all__ = [
    "HiddenClassifier",
    "LinearClassifier",
    "PooledClassifier",
    "hidden_classifier_cost",
    "linear_classifier_cost",
    "pooled_classifier_cost",
]


class LinearClassifier(nn.Module):
    """Head of MobileNetV2 and ShuffleNetV2: point-wise convolution, global average pooling, dropout, linear layer.

    Args:
        in_channels: Channels of the input ``(N, C, H, W)``.
        hidden_channels: Channels behind the convolution.
        num_classes: Classes; the output is ``(N, num_classes)``.
        dropout: Dropout probability.
        activation: Name of the activation.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, num_classes: int, dropout: float, activation: str
    ) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, hidden_channels, 1, activation=activation)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return self.classifier(self.dropout(x))


def linear_classifier_cost(
    in_channels: int, hidden_channels: int, num_classes: int, size: tuple[int, int], activation: str
) -> Cost:
    """Return the cost of :class:`LinearClassifier` on a map of ``size`` = (H, W)."""
    conv = conv_norm_act_cost(in_channels, hidden_channels, 1, size, activation=activation)
    return conv + pooled_classifier_cost(hidden_channels, num_classes)


class HiddenClassifier(nn.Module):
    """Head of MobileNetV3: point-wise convolution, global average pooling, a hidden layer, dropout, linear layer.

    Args:
        in_channels: Channels of the input ``(N, C, H, W)``.
        conv_channels: Channels behind the convolution.
        hidden_channels: Features of the hidden layer.
        num_classes: Classes; the output is ``(N, num_classes)``.
        dropout: Dropout probability.
        activation: Name of the activation, of the convolution and of the hidden layer; it must have no weights.
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: int,
        hidden_channels: int,
        num_classes: int,
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, conv_channels, 1, activation=activation)
        self.hidden = nn.Linear(conv_channels, hidden_channels)
        self.act = make_activation(activation, hidden_channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_channels, num_classes)
        for layer in (self.hidden, self.classifier):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.hidden(self.conv(x).mean((2, 3))))
        return self.classifier(self.dropout(x))


def hidden_classifier_cost(
    in_channels: int,
    conv_channels: int,
    hidden_channels: int,
    num_classes: int,
    size: tuple[int, int],
    activation: str,
) -> Cost:
    """Return the cost of :class:`HiddenClassifier` on a map of ``size`` = (H, W)."""
    conv = conv_norm_act_cost(in_channels, conv_channels, 1, size, activation=activation)
    hidden = conv_cost(conv_channels, hidden_channels, 1, (1, 1), bias=True)
    return conv + hidden + pooled_classifier_cost(hidden_channels, num_classes)


class PooledClassifier(nn.Module):
    """Head of MobileNetV1 and ResNet: global average pooling, linear layer.

    Args:
        in_channels: Channels of the input ``(N, C, H, W)``.
        num_classes: Classes; the output is ``(N, num_classes)``.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x.mean((2, 3)))


def pooled_classifier_cost(in_channels: int, num_classes: int) -> Cost:
    """Return the cost of :class:`PooledClassifier`."""
    return conv_cost(in_channels, num_classes, 1, (1, 1), bias=True)
