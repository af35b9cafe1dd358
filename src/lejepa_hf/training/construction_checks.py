"""Checks of everything that a Trainer is built from, before any long work."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from types import FunctionType

from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from ..data.collator import MultiCropCollator
from ..data.dataset_kinds import Mixture, count_rows
from ..data.decoding import DECODING_ERRORS
from ..data.rows import as_row
from ..modeling_lejepa import LeJEPAForPreTraining
from .callbacks.held_out import ACCURACIES


def check_kinds(model: object, collator: object, processor: object, recomputes_activations: bool) -> None:
    """Refuse models, collators and processors of other kinds, and backbones that cannot recompute activations."""
    if not isinstance(model, LeJEPAForPreTraining):
        way_out = "pass one, its config, or the name or config of a backbone to start from"
        raise _wrong_kind("model", "a LeJEPAForPreTraining", model, way_out)
    backbone = model.encoder.backbone
    if recomputes_activations and not model.supports_gradient_checkpointing:
        raise ValueError(
            f"`activation_checkpointing` is not possible with a {backbone.config.model_type} backbone: leave it "
            "out, and lower `per_device_train_batch_size` if memory is short."
        )
    if collator is not None and not isinstance(collator, MultiCropCollator):
        raise _wrong_kind("data_collator", "a MultiCropCollator", collator, "pass one with a MultiCropTransform")
    if processor is not None and not isinstance(processor, BaseImageProcessor):
        way_out = "leave it out, or make one with `lejepa_hf.hub.export.build_processor`"
        raise _wrong_kind("processing_class", "an image processor", processor, way_out)


def check_images(dataset: object, global_batch: int) -> int | None:
    """Number of training images, None for a stream that does not say; refuse fewer than one global batch."""
    if dataset is None:
        raise ValueError("`train_dataset` is missing: pass rows with an image, see `lejepa_hf.data.sources`.")
    _check_rows("train_dataset", dataset)
    num_images = count_rows(dataset)
    if num_images is not None and num_images < global_batch:
        raise ValueError(
            f"The dataset has {num_images} images, fewer than one global batch of {global_batch}: lower "
            "`per_device_train_batch_size`."
        )
    return num_images


def check_held_out(
    dataset: object, args: TrainingArguments, collator: MultiCropCollator, processor: object, monitors: Sequence[str]
) -> None:
    """Refuse an `eval_dataset` that cannot be evaluated, or whose accuracy chooses models but is not measured."""
    if dataset is None:
        if args.eval_on_start or args.eval_strategy != "no":
            raise ValueError(
                "`eval_dataset` is missing, but the arguments request evaluations: pass held-out images, or leave out "
                "`eval_strategy` and `eval_on_start`."
            )
        return
    check_one_dataset(dataset, args.world_size, collator.image_column)
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    has_labels = collator.label_column is not None and processor is not None
    if metric in ACCURACIES and not (has_labels and ACCURACIES[metric] in monitors):
        raise ValueError(
            f"`metric_for_best_model` {metric!r} is not measured: it needs {ACCURACIES[metric]!r} among `monitors`, a "
            "`label_column` of the `data_collator`, an image processor as `processing_class`, and for the probe "
            "training labels whose classes, at least two, are known before training."
        )


def check_not_trained_on(train: object, dataset: object) -> None:
    """Refuse an `eval_dataset` that is the training set itself, or one of a mixture."""
    members = train.datasets if isinstance(train, Mixture) else [train]
    for member in members:
        # Of two `datasets.Dataset` that were opened in the same way. Streams have none that says what they hold.
        prints = [getattr(one, "_fingerprint", None) if isinstance(one, Sized) else None for one in (member, dataset)]
        if dataset is not None and (member is dataset or (prints[0] is not None and prints[0] == prints[1])):
            raise ValueError(
                f"`eval_dataset` has the images of `train_dataset` ({type(dataset).__name__}): figures on them are "
                "not held out. Pass images that training does not read, or leave `eval_dataset` out."
            )


def check_one_dataset(dataset: object, num_processes: int, image_column: str) -> None:
    """Refuse an `eval_dataset` of several datasets, with too few images, or without an image column."""
    if isinstance(dataset, Mapping | list | tuple):
        raise ValueError(
            f"`eval_dataset` must be one dataset of held-out images, got several ({type(dataset).__name__}): evaluate "
            "each with `trainer.evaluate(dataset, metric_key_prefix=...)`."
        )
    _check_rows("eval_dataset", dataset)
    number = count_rows(dataset)
    if number is not None and number < max(2, num_processes):
        raise ValueError(
            f"`eval_dataset` has {number} images: the held-out images are fewer than 2 or than the {num_processes} "
            "processes. Give more, or set `eval_strategy: 'no'`."
        )
    columns = _columns(dataset, image_column)
    if columns and image_column not in columns:
        raise ValueError(
            f"`eval_dataset` has no column {image_column!r}, in which the training set holds its images, but "
            f"{', '.join(columns)}: rename its column."
        )


def _check_rows(argument: str, dataset: object) -> None:
    """Refuse what are not rows with numbers, a stream of `datasets`, which need not be installed, or a mixture."""
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))
        raise _wrong_kind(argument, "one dataset", dataset, f"pass one of its entries, which are {splits}")
    if isinstance(dataset, Mixture) or hasattr(dataset, "column_names"):
        return
    has_numbers = hasattr(dataset, "__getitem__")
    if isinstance(dataset, str | bytes) or not (has_numbers or isinstance(dataset, Iterable)):
        way_out = "pass the `dataset` of `lejepa_hf.data.sources.load_source(name)`"
        raise _wrong_kind(argument, "rows with an image", dataset, way_out)
    if not (has_numbers and isinstance(dataset, Sized)) or isinstance(dataset, IterableDataset):
        raise _wrong_kind(
            argument,
            "rows with a length and numbers (`__len__`, `__getitem__`)",
            dataset,
            "give it both, or pass `datasets.IterableDataset.from_generator(function)`, whose position checkpoints "
            "store; the function yields rows as {'image': ...}",
        )


def _columns(dataset: object, image_column: str) -> list[str] | None:
    """Names of a dataset's columns, where its class does not know them those of the first row; None for a mixture."""
    if hasattr(dataset, "column_names"):
        return dataset.column_names
    if not isinstance(dataset, Mixture):
        with suppress(*DECODING_ERRORS):  # broken images are counted later
            return list(as_row(dataset[0], image_column))  # type: ignore[index]
    return None


class CheckpointPublisher(TrainerCallback):
    """Base of callbacks that push checkpoints to the Hub, of which the Trainer needs one with `push_to_hub`."""


def check_push(args: TrainingArguments, callbacks: Sequence[TrainerCallback | type[TrainerCallback]]) -> None:
    """Refuse `push_to_hub` if no callback pushes, or if the finished run should be pushed, which others make."""
    if not args.push_to_hub:
        return
    way_out = (
        "train with `push_to_hub=False`, and publish the finished run with "
        "`lejepa_hf.hub.push.push_run(folder, repo_id)` or `lejepa push RUN REPO`"
    )
    if args.hub_strategy == "end":
        raise ValueError(
            f"`hub_strategy` 'end' would push the finished run, which the Trainer by itself does not make: {way_out}."
        )
    if not any(isinstance(callback, CheckpointPublisher) for callback in callbacks):
        raise ValueError(
            "`push_to_hub` is true, but none of the Trainer's `callbacks` pushes: add "
            f"`lejepa_hf.hub.checkpoint_push.CheckpointPush(args)` to them, or {way_out}."
        )


def _wrong_kind(argument: str, wanted: str, value: object, way_out: str) -> TypeError:
    kind = value if isinstance(value, type) else type(value)
    name = f"the function {value.__name__}" if isinstance(value, FunctionType) else kind.__name__
    return TypeError(f"`{argument}` must be {wanted}, got {name}: {way_out}.")
