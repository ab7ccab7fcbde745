"""The search configuration: one YAML file, read into dataclasses, every mistake reported at once."""

from dicenas.config.evaluator import EVALUATORS, TrialLimits, evaluator_kind
from dicenas.config.final import FinalConfig
from dicenas.config.parse import ConfigError, load_config, parse_config
from dicenas.config.schema import (
    CONSTRAINTS,
    SAMPLERS,
    ExportConfig,
    LatencyConfig,
    SearchConfig,
    StudyConfig,
)

__all__ = [
    "CONSTRAINTS",
    "EVALUATORS",
    "SAMPLERS",
    "ConfigError",
    "ExportConfig",
    "FinalConfig",
    "LatencyConfig",
    "SearchConfig",
    "StudyConfig",
    "TrialLimits",
    "evaluator_kind",
    "load_config",
    "parse_config",
]
