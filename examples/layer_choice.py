"""The candidate ops in a model space of NNI that is none of ours: one dictionary for each ``LayerChoice``.

Run: python examples/layer_choice.py
"""

import dicenas.search_spaces  # isort: skip  # noqa: F401  (imports NNI without two warnings of its own)
import nni
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import Random
from torch import Tensor, nn

from dicenas.cost import count_macs
from dicenas.evaluation import DataConfig, TrainConfig, load_data, train_and_evaluate
from dicenas.integrations.layer_choice import layer_choices

OPS = ("separable_k3", "dice_k3", "skip")


class Space(ModelSpace):
    """Two blocks to choose: one that halves the map, one that keeps it, where ``skip`` fits too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.down = LayerChoice(layer_choices(16, 32, stride=2, size=(4, 4), ops=OPS), label="down")
        self.keep = LayerChoice(layer_choices(32, 32, size=(4, 4), ops=OPS), label="keep")
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.keep(self.down(self.stem(x))).mean((2, 3)))


def main() -> None:
    """Train three samples of the space for four epochs each and print how good they are."""
    torch.manual_seed(0)
    data = load_data(DataConfig("digits", train_limit=300, val_limit=100))

    def evaluate(net: nn.Module) -> None:
        accuracy = train_and_evaluate(net, data, TrainConfig(epochs=4, batch=20))["accuracy"]
        macs = count_macs(net, (3, 32, 32))
        print(f"{nni.get_current_parameter().sample}: accuracy {accuracy:.2f}, {macs:,} FLOPs (MACs)")
        nni.report_final_result(accuracy)

    model = RawFormatModelSpace.from_model(Space(), FunctionalEvaluator(evaluate))
    strategy = Random(seed=0)
    strategy(model, SequentialExecutionEngine(max_model_count=3))
    (best,) = strategy.list_models(limit=1)
    print(f"best: {best.sample}")


if __name__ == "__main__":
    main()
