"""Models that are compared: their names, and what two runs agree to be measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcontrast.build.parts import caption_columns, open_pairs
from mmcontrast.config import Config, load_config
from mmcontrast.errors import DataError, ModelError
from mmcontrast.models import DualEncoder

MODEL = "model"


def model_of(given: DualEncoder | str | Path) -> DualEncoder | str | Path:
    """RUN/model of a run; everything else as it is."""
    if isinstance(given, DualEncoder) or not (Path(given) / "config.yaml").is_file():
        return given
    model = Path(given) / MODEL
    if not model.is_dir():
        raise ModelError(f"{given} is a run without a model: has it ended? (no folder {model})")
    return model


def model_names(models: Sequence[DualEncoder | str | Path]) -> list[str]:
    """Short and different names: the run's folder, the model's, or the Hub name; "name (2)" for what comes again."""
    long = [f"model {place}" if isinstance(one, DualEncoder) else str(one) for place, one in enumerate(models, 1)]
    short = [_short(name) for name in long]
    names = short if len(set(short)) == len(set(long)) else long
    return [name if (nth := names[:at].count(name)) == 0 else f"{name} ({nth + 1})" for at, name in enumerate(names)]


def _short(name: str) -> str:
    path = Path(name)
    if not path.exists():
        return name
    return (_run_of(name) or path).absolute().name


def _run_of(model: DualEncoder | str | Path) -> Path | None:
    """The folder of the run that a model is of, given as RUN or RUN/model."""
    if isinstance(model, DualEncoder):
        return None
    path = Path(model)
    if (path / "config.yaml").is_file():
        return path
    above = path.absolute().parent
    return above if path.absolute().name == MODEL and (above / "config.yaml").is_file() else None


def shared_evaluation(models: Sequence[DualEncoder | str | Path]) -> dict[str, Mapping[str, Any]]:
    """What all the runs were evaluated on, as {"validation": options of `run_evaluation`}.

    Raises:
        DataError: one of the models is no run, or has no validation data, or they differ in it.
    """
    configs: list[tuple[str, Config]] = []
    for model, name in zip(models, model_names(models), strict=True):
        run = _run_of(model)
        if run is None:
            raise DataError(
                f"{name} is no run that names data of its own: say what to compare on with --data FILE or --suite FILE"
            )
        config = load_config(run)
        if config.data.validation is None:
            raise DataError(f"{name} was trained without data.validation: say what to compare on with --data FILE")
        configs.append((name, config))
    (first_name, first), *others = configs
    for name, config in others:
        for key, value in _measured_on(config).items():
            if value != (ours := _measured_on(first)[key]):
                raise DataError(
                    f"{first_name} and {name} were evaluated differently: {key} is {ours!r} and {value!r}; "
                    "say what to compare on with --data FILE"
                )
    assert first.data.validation is not None
    source = open_pairs(first, first.data.validation)
    labelled = source.label_names is not None or first.evaluation.classnames is not None
    return {
        "validation": {
            "data": source,
            "task": [task for task in first.evaluation.tasks if task != "zero_shot" or labelled],
            "positives": first.evaluation.positives,
            "classnames": first.evaluation.classnames,
        }
    }


def _measured_on(config: Config) -> dict[str, Any]:
    data, validation = config.data, config.data.validation
    assert validation is not None
    return {
        **{f"data.validation.{key}": value for key, value in validation.model_dump().items()},
        "data.image_column": data.image_column,
        "data.caption_column": caption_columns(config),
        "data.label_column": data.label_column,
        "data.group_column": data.group_column,
        "evaluation.tasks": config.evaluation.tasks,
        "evaluation.positives": config.evaluation.positives,
        "evaluation.classnames": config.evaluation.classnames,
    }
