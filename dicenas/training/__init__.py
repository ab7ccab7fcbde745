"""Training for real: recipes, data of any size, and trainings that survive interruptions."""

from dicenas.training.data import TrainingData, open_data
from dicenas.training.prepare import check_training
from dicenas.training.recipes import RECIPES, Recipe, get_recipe, read_recipe
from dicenas.training.records import TrainFolder, TrainResult
from dicenas.training.run import TeacherConfig, finished_training, train

__all__ = [
    "RECIPES",
    "Recipe",
    "TeacherConfig",
    "TrainFolder",
    "TrainResult",
    "TrainingData",
    "check_training",
    "finished_training",
    "get_recipe",
    "open_data",
    "read_recipe",
    "train",
]
