"""How good a network is: datasets, short training, accuracy on validation images."""

from dicenas.evaluation.data import DATASETS, Data, DataConfig
from dicenas.evaluation.datasets import check_data, load_data
from dicenas.evaluation.evaluators import Evaluate, Evaluator, Report, StopEvaluation
from dicenas.evaluation.images import FileImages, Images, MemoryImages
from dicenas.evaluation.make import EvaluatorConfig, make_evaluator
from dicenas.evaluation.train_evaluator import TrainEvaluator, TrainEvaluatorConfig
from dicenas.evaluation.training import TrainConfig, TrainingDiverged, evaluate, train_and_evaluate

__all__ = [
    "DATASETS",
    "Data",
    "DataConfig",
    "Evaluate",
    "Evaluator",
    "EvaluatorConfig",
    "FileImages",
    "Images",
    "MemoryImages",
    "Report",
    "StopEvaluation",
    "TrainConfig",
    "TrainEvaluator",
    "TrainEvaluatorConfig",
    "TrainingDiverged",
    "check_data",
    "evaluate",
    "load_data",
    "make_evaluator",
    "train_and_evaluate",
]
