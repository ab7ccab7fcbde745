"""How good a network is: datasets, short training, accuracy on validation images."""

from dicenas.evaluation.data import DATASETS, Data, DataConfig
from dicenas.evaluation.datasets import check_data, load_data
from dicenas.evaluation.images import FileImages, Images, MemoryImages
from dicenas.evaluation.training import TrainConfig, TrainingDiverged, evaluate, train_and_evaluate

__all__ = [
    "DATASETS",
    "Data",
    "DataConfig",
    "FileImages",
    "Images",
    "MemoryImages",
    "TrainConfig",
    "TrainingDiverged",
    "check_data",
    "evaluate",
    "load_data",
    "train_and_evaluate",
]
