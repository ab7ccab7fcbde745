"""The candidate ops as plain modules in a define-by-run script of Optuna: no space, no NNI.

Run: python examples/define_by_run.py
"""

import optuna
import torch
from torch import nn

from dicenas.cost import count_macs
from dicenas.evaluation import DataConfig, TrainConfig, load_data, train_and_evaluate
from dicenas.ops import build_op


def build(trial: optuna.Trial) -> nn.Sequential:
    """Build the network of a trial: images ``(N, 3, 32, 32)`` to 10 logits."""
    channels, size = trial.suggest_categorical("channels", [8, 16]), 16
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    for block in range(trial.suggest_int("blocks", 1, 2)):
        op = trial.suggest_categorical(f"op_{block}", ["separable", "separable_se", "dice"])
        size //= 2
        layers.append(build_op(op, channels, 2 * channels, stride=2, size=(size, size), activation="relu"))
        channels *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def main() -> None:
    """Run four trials with two objectives and print the best ones."""
    data = load_data(DataConfig("digits", train_limit=300, val_limit=100))

    def objective(trial: optuna.Trial) -> tuple[float, int]:
        torch.manual_seed(trial.number)
        net = build(trial)
        macs = count_macs(net, (3, 32, 32))
        return train_and_evaluate(net, data, TrainConfig(epochs=4, batch=20))["accuracy"], macs

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=4)
    print(f"{len(study.best_trials)} of {len(study.trials)} trials are on the Pareto front:")
    for trial in sorted(study.best_trials, key=lambda trial: trial.values[1]):
        accuracy, macs = trial.values
        print(f"  accuracy {accuracy:.2f}, {macs:,.0f} FLOPs (MACs): {trial.params}")


if __name__ == "__main__":
    main()
