"""A finished run -> the card beside its encoder. Nothing in it that was not measured."""

import json
import os
import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from ..evaluation.intervals import is_spread
from ..system.logged_rows import read_metrics
from .training_data import public_name, training_data

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
# Of this machine, not of the run: paths say who ran it and where.
_PRIVATE_KEYS = ("output_dir", "run_name", "logging_dir", "hub_", "push_to_hub")
# What is in `pictures/` of a run, and whether it says something about training or about the weights it ended with.
PICTURES = {
    "losses.png": ("Both parts of the loss while training", "training"),
    "pca_maps.png": ("Images and their patch features, three principal components as colours", "weights"),
    "gaussianity.png": ("How Gaussian the projections of training images are", "weights"),
    "few_shot.png": ("Accuracy from few labelled images a class, beside the baselines", "weights"),
    "neighbours.png": ("Held-out images and the training images nearest to them", "weights"),
    "embeddings.png": ("Held-out images by t-SNE of their embeddings, coloured by label", "weights"),
}
# Behind the code on how to use it; it is said where the file is there.
_WITHOUT_MORE = "Plain transformers; no other package and no remote code is needed.\n"
_ONNX = (
    '\nWithout torch, for pixels as above: `onnxruntime.InferenceSession("model.onnx").run(["embedding"], '
    '{"pixel_values": pixels.numpy()})`.\n'
)
_SECTION_OF_PICTURES = re.compile(r"^## Pictures\n.*?(?=^## )", re.MULTILINE | re.DOTALL)


def write_model_card(
    folder: str | Path, run: str | Path | None = None, is_final: bool = True, ema_decay: float | None = None
) -> Path:
    """
    Fill the card's template with a run's facts.

    Pictures are linked where they lie, for a folder inside the run's folder; [`card_for_repository`] gives the card as
    it reads elsewhere.

    Args:
        folder (`str` or `Path`): Exported encoder; the card becomes its README.md.
        run (`str` or `Path`, *optional*): Run folder with `recipe.yaml`, `results.json`, `statistics.json`,
            `metrics.jsonl`, `versions.json` and `pictures/`; what is missing there is left out of the card.
        is_final (`bool`, *optional*, defaults to `True`): Whether the weights are those the run ended with; results
            and losses of the run say nothing about others and are left out.
        ema_decay (`float`, *optional*): If the weights are the moving average of those in training, its decay.

    Returns:
        `Path`: The card.
    """
    from .code_example import usage_of  # imports torch, which a push of cards that are written has no use for

    folder, run = Path(folder), Path(run) if run is not None else None
    usage = usage_of(folder)
    recipe = _read(run, "recipe.yaml", yaml.safe_load) or {}
    results = _read(run, "results.json", json.loads) if is_final else None
    own_results = (results or {}).get("averaged_encoder" if ema_decay else "encoder")  # an average may be younger
    statistics = _read(run, "statistics.json", json.loads) if is_final and not ema_decay else None
    versions = _read(run, "versions.json", json.loads) or {}
    metrics = read_metrics(run) if run is not None and is_final else []
    continued = recipe.get("continue_from")
    warm_start = continued or recipe.get("pretrained_backbone")
    base_model, _, revision = (public_name(warm_start) or "").partition("@")
    dataset = public_name(recipe.get("dataset"))
    data = training_data(recipe)
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    name = f"lejepa-{model_type}" + (f"-{dataset.split('/')[-1]}" if dataset and len(data) == 1 else "")
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["lejepa", "self-supervised-learning", "vision"],
        datasets=[source.on_hub for source in data if source.on_hub] or None,
        base_model=base_model or None,
        license=recipe.get("license"),
        model_name=name,
        eval_results=_eval_results(own_results, results, recipe, dataset) if own_results else None,
    )
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        **usage,
        card_data=card_data.to_yaml(),
        name=name,
        ema_decay=ema_decay,
        warm_start=_start(base_model, revision) if warm_start else None,
        is_continued=continued is not None,
        license=recipe.get("license"),
        data=data,
        num_images=results["run"]["num_train_images"] if results and len(data) == 1 else None,
        dataset=dataset or "local images",
        held_out=_is_held_out(recipe),
        table=results["table"] if own_results else None,
        run=results["run"] if results else None,
        processes=num_processes(recipe, results),
        last=metrics[-1] if metrics else None,
        is_plain_sigreg=[recipe.get(key) for key in ("statistic", "num_knots", "t_max")] == ["epps_pulley", 17, 3.0],
        statistics=statistics,
        sigreg=[value for key, value in (statistics or {}).items() if key.startswith("sigreg_view")],
        pictures=_pictures(folder, run, "training" if ema_decay else "weights") if is_final else {},
        recipe=public_recipe_text(recipe) if recipe else None,
        versions=versions,
    )
    path = folder / "README.md"
    ModelCard(with_onnx(text) if (folder / "model.onnx").is_file() else text).save(path)
    return path


def with_onnx(text: str) -> str:
    """A card that says how to run the `model.onnx` beside it, once."""
    return text if _ONNX in text else text.replace(_WITHOUT_MORE, _WITHOUT_MORE + _ONNX)


def card_for_repository(text: str, has_pictures: bool) -> str:
    """
    The card of `encoder/` as it reads at the root of a repository, where `pictures/` lies beside it.

    Args:
        text (`str`): From [`write_model_card`].
        has_pictures (`bool`): Whether the pictures are in the repository; if not, their section is left out.

    Returns:
        `str`
    """
    return text.replace("](../pictures/", "](pictures/") if has_pictures else _SECTION_OF_PICTURES.sub("", text)


def public_recipe_text(recipe: dict) -> str:
    """A recipe as YAML, without what says who ran it and where."""
    public = {key: value for key, value in recipe.items() if not key.startswith(_PRIVATE_KEYS)}
    public = {key: _without_paths(key, value) for key, value in public.items()}
    return yaml.safe_dump(public, sort_keys=False, default_flow_style=None, width=110)


def _without_paths(key: str, value):
    """A recipe's value with paths of this machine and addresses left out, in lists and in entries of `mixture` too."""
    if isinstance(value, list):
        return [_without_paths(key, item) for item in value]
    if isinstance(value, dict):
        return {inner: _without_paths(inner, item) for inner, item in value.items()}
    if not isinstance(value, str) or not value:
        return value
    private = value.startswith(("/", "~", "../", "./")) or "://" in value
    if key in ("dataset", "pretrained_backbone", "continue_from"):
        private = private or public_name(value) is None
    return "<local>" if private else value


def _start(base_model: str, revision: str) -> str:
    if not base_model:
        return "a local checkpoint"
    return base_model + (f" at revision {revision}" if revision else "")


def _read(run: Path | None, name: str, parse):
    path = run / name if run is not None else None
    return parse(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None


def _is_held_out(recipe: dict) -> bool:
    """Whether the evaluation's images are of another split than those to train on; a mixture may hold any."""
    splits = [(recipe.get(key) or "").partition("[")[0] for key in ("train_split", "eval_split")]
    return bool(recipe) and not recipe.get("mixture") and splits[0] != splits[1]


def num_processes(recipe: dict, results: dict | None) -> int:
    """How many took part, by the size of the batch; 1 where nothing is known."""
    if results is None:
        return 1
    from transformers import TrainingArguments

    by_default = TrainingArguments.per_device_train_batch_size
    images = recipe.get("per_device_train_batch_size", by_default) * recipe.get("gradient_accumulation_steps", 1)
    return max(1, results["run"]["global_batch"] // images)


def _pictures(folder: Path, run: Path | None, of: str) -> dict[str, str]:
    """Address as seen from the card -> meaning. None from outside of the run's folder, which may move away alone."""
    if run is None or run.resolve() not in folder.resolve().parents:
        return {}
    way = Path(os.path.relpath(run.resolve() / "pictures", folder.resolve())).as_posix()
    names = [name for name, (_, kind) in PICTURES.items() if kind in ("training", of)]
    return {f"{way}/{name}": PICTURES[name][0] for name in names if (run / "pictures" / name).is_file()}


def _eval_results(own: dict, results: dict, recipe: dict, dataset: str | None) -> list[EvalResult]:
    on_hub = dataset is not None and "/" in dataset
    return [
        EvalResult(
            task_type="image-classification",
            task_name=f"frozen encoder, {metric.removeprefix('eval_').replace('_', ' ')}",
            dataset_type=dataset or "local",
            dataset_name=dataset or "local images",
            dataset_config=recipe.get("dataset_config") if on_hub else None,
            dataset_revision=recipe.get("dataset_revision") if on_hub else None,
            dataset_split=results["run"]["eval_split"],
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in own.items()
        if not is_spread(metric)
    ]
