"""How good a network is: datasets, short training, accuracy on validation images."""

from dicenas.evaluation.data import DATASETS, Data, DataConfig
from dicenas.evaluation.datasets import check_data, load_data
from dicenas.evaluation.evaluators import Evaluate, Evaluator, Report, StopEvaluation
from dicenas.evaluation.images import FileImages, Images, MemoryImages
from dicenas.evaluation.make import EvaluatorConfig, make_evaluator
from dicenas.evaluation.proxies import PROXIES, proxy_scores
from dicenas.evaluation.proxy_evaluator import FilteredEvaluator, ProxyConfig, ProxyEvaluator
from dicenas.evaluation.recalibrate import recalibrate
from dicenas.evaluation.supernet import Supernet, SupernetConfig, SupernetEvaluator, train_supernet
from dicenas.evaluation.tabular import TabularConfig, TabularEvaluator, TrainingTable
from dicenas.evaluation.train_evaluator import TrainEvaluator, TrainEvaluatorConfig
from dicenas.evaluation.trainer import TrainConfig, TrainingDiverged
from dicenas.evaluation.training import evaluate, train_and_evaluate

__all__ = [
    "DATASETS",
    "PROXIES",
    "Data",
    "DataConfig",
    "Evaluate",
    "Evaluator",
    "EvaluatorConfig",
    "FileImages",
    "FilteredEvaluator",
    "Images",
    "MemoryImages",
    "ProxyConfig",
    "ProxyEvaluator",
    "Report",
    "StopEvaluation",
    "Supernet",
    "SupernetConfig",
    "SupernetEvaluator",
    "TabularConfig",
    "TabularEvaluator",
    "TrainConfig",
    "TrainEvaluator",
    "TrainEvaluatorConfig",
    "TrainingDiverged",
    "TrainingTable",
    "check_data",
    "evaluate",
    "load_data",
    "make_evaluator",
    "proxy_scores",
    "recalibrate",
    "train_and_evaluate",
    "train_supernet",
]
