"""A finished run -> the card beside its encoder. Nothing in it that was not measured."""

import json
from pathlib import Path

import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from ..backbone.facts import forward_kwargs
from .pictures import read_metrics

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
# Of this machine, not of the run: paths say who ran it and where.
_PRIVATE_KEYS = ("output_dir", "run_name", "logging_dir")


def write_model_card(
    folder: str | Path, run: str | Path | None = None, is_final: bool = True, ema_decay: float | None = None
) -> Path:
    """
    Fill the card's template with a run's facts.

    Args:
        folder (`str` or `Path`): Exported encoder; the card becomes its README.md.
        run (`str` or `Path`, *optional*): Run folder with `recipe.yaml`, `results.json`, `metrics.jsonl` and
            `versions.json`; what is missing there is left out of the card.
        is_final (`bool`, *optional*, defaults to `True`): Whether the weights are those the run ended with; results
            and losses of the run say nothing about others and are left out.
        ema_decay (`float`, *optional*): If the weights are the moving average of those in training, its decay.

    Returns:
        `Path`: The card.
    """
    folder, run = Path(folder), Path(run) if run is not None else None
    config = json.loads((folder / "config.json").read_text())
    recipe = _read(run, "recipe.yaml", yaml.safe_load) or {}
    results = _read(run, "results.json", json.loads) if is_final else None
    versions = _read(run, "versions.json", json.loads) or {}
    metrics = read_metrics(run) if run is not None and is_final else []
    warm_start = recipe.get("pretrained_backbone")
    dataset = public_name(recipe.get("dataset"))
    trained_on = [public_name(source.get("dataset")) for source in recipe.get("mixture") or [recipe]]
    on_hub = [source for source in trained_on if source and "/" in source]
    name = f"lejepa-{config['model_type']}" + (f"-{dataset.split('/')[-1]}" if dataset else "")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["lejepa", "self-supervised-learning", "vision"],
        datasets=on_hub or None,
        base_model=public_name(warm_start),
        model_name=name,
        eval_results=_eval_results(results, "averaged_encoder" if ema_decay else "encoder", dataset),
    )
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = template.from_string(_TEMPLATE.read_text()).render(
        card_data=data.to_yaml(),
        name=name,
        class_name=config["architectures"][0],
        pooling=config["embedding_pooling"],
        interpolate=_needs_interpolation(config, _read(folder, "preprocessor_config.json", json.loads)),
        dataset=dataset or "local images",
        recipe=public_recipe_text(recipe) if recipe else None,
        ema_decay=ema_decay,
        warm_start=public_name(warm_start) or ("a local checkpoint" if warm_start else None),
        last=metrics[-1] if metrics else None,
        table=results["table"] if results else None,
        run=results["run"] if results else None,
        versions=versions,
    )
    path = folder / "README.md"
    ModelCard(text).save(path)
    return path


def _read(run: Path | None, name: str, parse):
    path = run / name if run is not None else None
    return parse(path.read_text()) if path is not None and path.is_file() else None


def _needs_interpolation(config: dict, processor: dict | None) -> bool:
    """Whether images come in another size than the positions were made for, and the class wants to be told."""
    side = processor["crop_size"]["height"] if processor and "crop_size" in processor else None
    if side is None or config.get("image_size", side) in (side, [side, side]):
        return False
    return bool(forward_kwargs(getattr(transformers, config["architectures"][0])))


def public_name(name: str | None) -> str | None:
    """A Hub id or `digits`; None for anything that is a path of this machine or an address, which may hold a key."""
    if not name or name.startswith((".", "/", "~")) or name.endswith((".parquet", ".tar")) or name.count("/") > 1:
        return None
    return None if Path(name).is_dir() else name


def _without_paths(key: str, value):
    """A recipe's value with paths of this machine and addresses left out, in lists and in entries of `mixture` too."""
    if isinstance(value, list):
        return [_without_paths(key, item) for item in value]
    if isinstance(value, dict):
        return {inner: _without_paths(inner, item) for inner, item in value.items()}
    if not isinstance(value, str) or not value:
        return value
    private = value.startswith(("/", "~", "../", "./")) or "://" in value
    if key in ("dataset", "pretrained_backbone"):
        private = private or public_name(value) is None
    return "<local>" if private else value


def public_recipe_text(recipe: dict) -> str:
    """A recipe as YAML, without what says who ran it and where."""
    public = {
        key: value
        for key, value in recipe.items()
        if key not in _PRIVATE_KEYS and not key.startswith(("hub_", "push_to_hub"))
    }
    public = {key: _without_paths(key, value) for key, value in public.items()}
    return yaml.safe_dump(public, sort_keys=False, default_flow_style=None, width=110)


def _eval_results(results: dict | None, encoder: str, dataset: str | None) -> list[EvalResult] | None:
    if results is None or encoder not in results:  # an average may be younger than the results of its run
        return None
    return [
        EvalResult(
            task_type="image-classification",
            task_name=f"frozen encoder, {metric.removeprefix('eval_').replace('_', ' ')}",
            dataset_type=dataset or "local",
            dataset_name=dataset or "local images",
            dataset_split=results["run"]["eval_split"],
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in results[encoder].items()
        if not metric.endswith("_std")
    ]
