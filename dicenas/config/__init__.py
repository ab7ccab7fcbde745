"""The search configuration: one YAML file, read into dataclasses, every mistake reported at once."""

from dicenas.config.parse import ConfigError, load_config, parse_config
from dicenas.config.schema import (
    CONSTRAINTS,
    EVALUATORS,
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
    "LatencyConfig",
    "SearchConfig",
    "StudyConfig",
    "load_config",
    "parse_config",
]
