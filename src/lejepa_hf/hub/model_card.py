"""A run -> the card beside its encoder, README.md. It states nothing that was not measured."""

import filecmp
import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from ..data.shared_images import SharedImages
from ..evaluation.intervals import is_spread
from ..system.damaged_files import read_json
from ..system.durable_files import write_text
from ..system.run_folder import PictureName, RunFolder
from .public_files import public_recipe_text
from .training_data import public_name, training_data

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
# Caption of each picture, and whether it shows the training or the weights that the run ended with.
PICTURES: dict[PictureName, tuple[str, str]] = {
    "losses": ("Both parts of the loss while training", "training"),
    "pca_maps": ("Images and their patch features, three principal components as colours", "weights"),
    "gaussianity": ("How Gaussian the projections of training images are", "weights"),
    "few_shot": ("Accuracy from few labelled images a class, beside the baselines", "weights"),
    "neighbours": ("Held-out images and the training images nearest to them", "weights"),
    "embeddings": ("Held-out images by t-SNE of their embeddings", "weights"),
}
# The end of the section "Use", and what follows it where there is a model.onnx.
_END_OF_USE = "Plain transformers; no other package and no remote code is needed.\n"
_ONNX = (
    '\nWithout torch, for pixels as above: `onnxruntime.InferenceSession("model.onnx").run(["embedding"], '
    '{"pixel_values": pixels.numpy()})`.\n'
)


def write_model_card(
    folder: str | Path, run: str | Path | None = None, is_final: bool = True, ema_decay: float | None = None
) -> Path:
    """
    Fill the card's template with what the folder of a run holds, and write it as README.md beside the encoder.

    Pictures are linked where they are stored, for an encoder inside the run's folder;
    [`~hub.public_files.card_for_repository`] changes the links for a repository.

    Args:
        folder (`str` or `Path`): Exported encoder.
        run (`str` or `Path`, *optional*): Run folder; files that are missing there are left out of the card.
        is_final (`bool`, *optional*, defaults to `True`): Whether the weights are those the run ended with. If not,
            its results and losses are left out, since other weights were measured.
        ema_decay (`float`, *optional*): Decay of the moving average, if the weights are one.
    """
    folder, run_folder = Path(folder), RunFolder(run) if run is not None else None
    recipe, local_paths = (run_folder.read_recipe(), run_folder.read_local_paths()) if run_folder else ({}, None)
    context = _context_of_recipe(folder, recipe, local_paths) | usage_of(folder)
    context |= _measurements(run_folder if is_final else None, ema_decay, context)
    shown = _pictures(folder, run_folder, "training" if ema_decay else "weights") if run_folder and is_final else {}
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        **context,
        ema_decay=ema_decay,
        class_balanced=bool(recipe.get("class_balanced")),
        pictures=shown,
        versions=run_folder.read_versions() if run_folder else {},
        card_data=_metadata(context, recipe).to_yaml(),
    )
    path = folder / "README.md"
    text = str(ModelCard(text))  # refuses a head that the Hub could not read
    write_text(path, with_onnx(text) if (folder / "model.onnx").is_file() else text)
    return path


def rewrite_model_card(run: str | Path, encoder: str | Path | None = None) -> Path:
    """
    Write the card of a run's exported encoder (its `encoder/` if missing) again, from the run folder as it is now. The
    card has the results if the weights are those the run ended with, or their average. ValueError if there is no
    encoder, or it is not known which weights of the run it has.
    """
    run_folder = RunFolder(run)
    folder = run_folder.encoder if encoder is None else Path(encoder)
    if not has_weights(folder):
        raise ValueError(f"{str(folder)!r} holds no encoder: write it with `lejepa export {run}`.")
    if is_in_training(folder):
        raise ValueError(f"{str(folder)!r} holds a model in training: give an encoder that `lejepa export` wrote.")
    decay = run_folder.read_recipe().get("ema_decay")
    if _same_weights(folder, run_folder.encoder):
        return write_model_card(folder, run)
    if decay and _same_weights(folder, run_folder.averaged_encoder):
        return write_model_card(folder, run, ema_decay=decay)
    of_checkpoint = re.fullmatch(r"encoder(_averaged)?-\d+", folder.name)
    if of_checkpoint and folder.resolve().parent == run_folder.path.resolve() and (decay or not of_checkpoint[1]):
        return write_model_card(folder, run, is_final=False, ema_decay=decay if of_checkpoint[1] else None)
    raise ValueError(
        f"The weights in {str(folder)!r} are neither those in encoder/ or encoder_averaged/ of {str(run)!r} nor of a "
        "checkpoint exported there: `lejepa export` writes them with a card of their own."
    )


def with_onnx(text: str) -> str:
    """The text of a card with the use of the `model.onnx` beside it, added once."""
    return text if _ONNX in text else text.replace(_END_OF_USE, _END_OF_USE + _ONNX)


def shared_of(results: dict[str, Any] | None) -> SharedImages | None:
    """How many held-out images are training images too; None if none are, or an early version did not count them."""
    counted = results["run"].get("shared_images") if results else None
    return SharedImages(**counted) if counted and counted["number"] else None


def num_processes(run: RunFolder) -> int:
    """Number of processes of a run, from the size of its batch; 1 where nothing is known."""
    results, recipe = run.read_results(), run.read_recipe()
    if results is None:
        return 1
    from transformers import TrainingArguments

    default = TrainingArguments.per_device_train_batch_size
    images = recipe.get("per_device_train_batch_size", default) * recipe.get("gradient_accumulation_steps", 1)
    return max(1, results["run"]["global_batch"] // images)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model with weights in safetensors."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def is_in_training(folder: Path) -> bool:
    """Whether a folder holds a model with its projector or a checkpoint, not an exported encoder."""
    config = folder / "config.json"
    of_this_package = config.is_file() and '"lejepa"' in config.read_text(encoding="utf-8")
    return of_this_package or (folder / "trainer_state.json").is_file()


def usage_of(folder: Path) -> dict[str, Any]:
    """
    How to use an exported encoder: names of classes and outputs, `pixel_range` or None, `crop_size` in pixels or None;
    `interpolate`, whether the class needs an argument for images of another size than its positions.
    """
    # They import torch, which a push of existing cards does not need.
    import transformers
    from transformers.backbone_utils import BackboneMixin

    from ..model.architecture import forward_kwargs, num_channels

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    native = getattr(transformers, config.architectures[0])
    file = folder / "preprocessor_config.json"
    processor = read_json(file) if file.is_file() else {}
    side = (processor.get("crop_size") or {}).get("height")
    own_side = getattr(config, "image_size", None)
    fits = side is None or own_side in (None, side, [side, side], (side, side))
    return {
        "class_name": config.architectures[0],
        "channels": num_channels(config),
        "pooling": config.embedding_pooling,
        "states": "feature_maps[-1]" if issubclass(native, BackboneMixin) else "last_hidden_state",
        "interpolate": not fits and bool(forward_kwargs(native)),
        "pixel_range": processor.get("pixel_range"),
        "crop_size": side,
    }


def _context_of_recipe(folder: Path, recipe: dict[str, Any], local_paths: list[str] | None) -> dict[str, Any]:
    """Fields of a run's recipe, for the template and for the card's head."""
    warm_start = recipe.get("continue_from") or recipe.get("pretrained_backbone")
    base_model, _, revision = (public_name(warm_start, local_paths) or "").partition("@")
    at_revision = f" at revision {revision}" if revision else ""
    dataset, data = public_name(recipe.get("dataset"), local_paths), training_data(recipe, local_paths)
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    plain = [recipe.get(key) for key in ("statistic", "num_knots", "t_max")] == ["epps_pulley", 17, 3.0]
    return {
        "name": f"lejepa-{model_type}" + (f"-{dataset.split('/')[-1]}" if dataset and len(data) == 1 else ""),
        "data": data,
        "dataset": dataset or "local images",
        "base_model": base_model or None,
        "warm_start": warm_start and (base_model + at_revision or "a local checkpoint"),
        "is_continued": recipe.get("continue_from") is not None,
        "license": recipe.get("license"),
        "is_other_split": _is_other_split(recipe),
        "is_plain_sigreg": plain,
        "recipe": public_recipe_text(recipe, local_paths) if recipe else None,
    }


def _measurements(run: RunFolder | None, ema_decay: float | None, context: dict[str, Any]) -> dict[str, Any]:
    """Results, statistics and losses of the weights of a card; nothing without a run."""
    results = run.read_results() if run else None
    own = (results or {}).get("averaged_encoder" if ema_decay else "encoder")  # an average may be younger
    statistics = run.read_statistics() if run and not ema_decay else None
    metrics = run.read_metrics() if run else []
    held_out = run.read_held_out() if run and not ema_decay else []
    return {
        "own_results": own or {},
        "table": results["table"] if results and own else None,
        "of_embeddings": (results or {}).get("held_out") if not ema_decay else None,
        "shared": shared_of(results),
        "run": results["run"] if results else None,
        "num_images": results["run"]["num_train_images"] if results and len(context["data"]) == 1 else None,
        "processes": num_processes(run) if run else 1,
        "last": metrics[-1] if metrics else None,
        "last_held_out": held_out[-1] if held_out else {},
        "monitor_images": run.read_arguments().get("monitor_images") if run else None,
        "statistics": statistics,
        "sigreg": [value for key, value in (statistics or {}).items() if key.startswith("sigreg_view")],
    }


def _metadata(context: dict[str, Any], recipe: dict[str, Any]) -> ModelCardData:
    """The head of a card, which the Hub reads."""
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["lejepa", "self-supervised-learning", "vision"],
        datasets=[source.on_hub for source in context["data"] if source.on_hub] or None,
        base_model=context["base_model"],
        license=context["license"],
        model_name=context["name"],
        eval_results=_eval_results(context, recipe) or None,
    )


def _eval_results(context: dict[str, Any], recipe: dict[str, Any]) -> list[EvalResult]:
    name, on_hub = context["dataset"], "/" in context["dataset"]
    shared = f"; {context['shared']}" if context["shared"] else ""
    return [
        EvalResult(
            task_type="image-classification",
            task_name=f"frozen encoder, {metric.removeprefix('eval_').replace('_', ' ')}{shared}",
            dataset_type="local" if name == "local images" else name,
            dataset_name=name,
            dataset_config=recipe.get("dataset_config") if on_hub else None,
            dataset_revision=recipe.get("dataset_revision") if on_hub else None,
            dataset_split=context["run"]["eval_split"],
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in context["own_results"].items()
        if not is_spread(metric)
    ]


def _is_other_split(recipe: dict[str, Any]) -> bool:
    """Whether the evaluation used another split than training; a mixture may contain any."""
    splits = [(recipe.get(key) or "").partition("[")[0] for key in ("train_split", "eval_split")]
    return bool(recipe) and not recipe.get("mixture") and splits[0] != splits[1]


def _pictures(folder: Path, run: RunFolder, kind: str) -> dict[str, str]:
    """Caption by address as seen from the card; none for a card outside the run's folder, which may move alone."""
    if run.path.resolve() not in folder.resolve().parents:
        return {}
    way = Path(os.path.relpath(run.pictures.resolve(), folder.resolve())).as_posix()
    names = [name for name, (_, shows) in PICTURES.items() if shows in ("training", kind)]
    return {f"{way}/{run.picture(name).name}": PICTURES[name][0] for name in names if run.picture(name).is_file()}


def _same_weights(one: Path, other: Path) -> bool:
    names, others = (sorted(path.name for path in folder.glob("model*.safetensors")) for folder in (one, other))
    same_names = bool(names) and names == others
    return same_names and (one.samefile(other) or not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:]))
