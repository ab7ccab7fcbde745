"""Training for real: recipes, data of any size, and trainings that survive interruptions."""

from dicenas.training.data import TrainingData, open_data
from dicenas.training.recipes import RECIPES, Recipe, get_recipe
from dicenas.training.records import TrainFolder, TrainResult
from dicenas.training.run import TeacherConfig, train

__all__ = [
    "RECIPES",
    "Recipe",
    "TeacherConfig",
    "TrainFolder",
    "TrainResult",
    "TrainingData",
    "get_recipe",
    "open_data",
    "train",
]
