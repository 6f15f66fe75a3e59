"""The typed, strict config of a run: YAML in, `Config` out. Only `build` and `cli` look into it."""

from .checks import check_against_data, total_steps, warmup_steps
from .load import dump_config, load_config
from .negatives import NegativesConfig
from .schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    ImageTowerConfig,
    MixedSourceConfig,
    ModelConfig,
    SourceConfig,
    TextTowerConfig,
    TokenizerConfig,
    TrainingConfig,
    config_schema,
)
from .suite import Suite, SuiteTask, load_suite

__all__ = [
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ImageTowerConfig",
    "MixedSourceConfig",
    "ModelConfig",
    "NegativesConfig",
    "SourceConfig",
    "Suite",
    "SuiteTask",
    "TextTowerConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "check_against_data",
    "config_schema",
    "dump_config",
    "load_config",
    "load_suite",
    "total_steps",
    "warmup_steps",
]
