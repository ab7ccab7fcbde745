"""Weight sharing: one network trained for all architectures of a space, which inherit its weights."""

from dicenas.evaluation.supernet.evaluator import SupernetEvaluator
from dicenas.evaluation.supernet.network import Supernet
from dicenas.evaluation.supernet.train import SAMPLINGS, SupernetConfig, train_supernet

__all__ = ["SAMPLINGS", "Supernet", "SupernetConfig", "SupernetEvaluator", "train_supernet"]
