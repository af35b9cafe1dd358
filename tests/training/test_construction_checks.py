import re

import pytest
import torch
from datasets import DatasetDict
from monitored_run import monitored
from test_trainer import TRANSFORM, model_for
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import TrainerCallback, TrainingArguments

from lejepa_hf import LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator
from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.sources import load_source
from lejepa_hf.hub.checkpoint_push import CheckpointPush
from lejepa_hf.training.construction_checks import CheckpointPublisher

DIGITS, OTHERS = (load_source("digits", split).dataset for split in ("test", "train"))


def build(folder, backbone, **given):
    settings = {"output_dir": str(folder), "use_cpu": True, "max_steps": 1, **given.pop("args", {})}
    values = {"model": model_for(backbone), "train_dataset": DIGITS, "data_collator": MultiCropCollator(TRANSFORM)}
    return LeJEPATrainer(**values | {"args": LeJEPATrainingArguments(**settings)} | given)


def collate(examples):
    return {"global_views": torch.zeros(8, 1, 3, 16, 16)}


class Pictures:
    """Rows without a list of their columns."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"picture": DIGITS[index]["image"]}


class Iterable(IterableDataset):
    """Rows without numbers."""

    def __len__(self):
        return 20

    def __iter__(self):
        return iter(DIGITS)


class Unsized(Dataset):
    """Rows without a length."""

    def __getitem__(self, index):
        return {"image": DIGITS[index]["image"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data_collator": collate}, "`data_collator` must be a MultiCropCollator, got the function collate: pass"),
        (
            {"args": TrainingArguments("a", use_cpu=True)},
            "`args` must be LeJEPATrainingArguments, got TrainingArguments",
        ),
        (
            {"model": torch.nn.Linear(1, 1)},
            "`model` must be a LeJEPAForPreTraining, got Linear: pass one, its config, or the name",
        ),
        ({"train_dataset": "digits"}, "`train_dataset` must be rows with an image, got str: pass the `dataset` of"),
        ({"eval_dataset": "digits"}, "`eval_dataset` must be rows with an image, got str: pass the `dataset` of"),
        ({"eval_dataset": collate}, "`eval_dataset` must be rows with an image, got the function collate"),
        (
            {"train_dataset": DatasetDict(train=DIGITS, test=DIGITS)},
            "`train_dataset` must be one dataset, got DatasetDict: pass one of its entries, which are train, test",
        ),
        ({"train_dataset": Iterable()}, "rows with a length and numbers .*, got Iterable: .*`datasets.Iterable"),
        ({"train_dataset": Unsized()}, "rows with a length and numbers .*, got Unsized: give it both"),
        ({"train_dataset": iter([])}, "rows with a length and numbers .*, got list_iterator: give it both"),
        ({"train_dataset": DataLoader(DIGITS)}, "rows with a length and numbers .*, got DataLoader: give it both"),
        ({"processing_class": collate}, "`processing_class` must be an image processor, got the function collate"),
    ],
)
def test_things_of_another_kind(tmp_path, tiny_resnet, given, message):
    settings = {name: value for name, value in given.items() if name == "args"}
    trainer = {name: value for name, value in given.items() if name != "args"}
    with pytest.raises(TypeError, match=message):
        if settings:
            LeJEPATrainer(model_for(tiny_resnet), settings["args"], DIGITS)
        else:
            build(tmp_path, tiny_resnet, **trainer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_dataset": None}, "`train_dataset` is missing"),
        ({"eval_dataset": {"a": DIGITS}}, "`eval_dataset` must be one dataset of held-out images, got several (dict)"),
        ({"eval_dataset": DIGITS.select(range(1))}, "`eval_dataset` has 1 images"),
        ({"eval_dataset": DIGITS.rename_column("image", "picture")}, "no column 'image', .* but picture, label"),
        ({"eval_dataset": Pictures()}, "no column 'image', .* but picture:"),
        ({"args": {"eval_strategy": "steps"}}, "`eval_dataset` is missing, but the arguments request evaluations"),
        ({"args": {"eval_on_start": True}}, "`eval_dataset` is missing, but the arguments request evaluations"),
        (
            {"args": {"metric_for_best_model": "knn_top1"}, "eval_dataset": OTHERS},
            "`metric_for_best_model` 'knn_top1' is not measured",
        ),
        (
            {"args": {"metric_for_best_model": "eval_online_probe_top1"}, "eval_dataset": OTHERS},
            "`metric_for_best_model` 'online_probe_top1' is not measured: it needs 'probe' among `monitors`",
        ),
    ],
)
def test_data_that_cannot_serve(tmp_path, tiny_resnet, given, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        build(tmp_path, tiny_resnet, **given)


PUSH = {"push_to_hub": True, "hub_model_id": "me/encoder"}


PUSH = {"push_to_hub": True, "hub_model_id": "me/encoder"}


def test_a_push_that_nobody_makes_is_refused(tmp_path, tiny_resnet):
    with pytest.raises(ValueError, match=r"none of the Trainer's `callbacks` pushes: add `.*CheckpointPush\(args\)`"):
        build(tmp_path, tiny_resnet, args=PUSH)
    args = LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, **PUSH)
    trainer = build(tmp_path, tiny_resnet, callbacks=[CheckpointPush(args)], args=PUSH)
    assert args.push_to_hub and not trainer.args.push_to_hub  # transformers itself pushes nothing
    with pytest.raises(ValueError, match="`hub_strategy` 'end' would push the finished run.*push_run"):
        build(tmp_path, tiny_resnet, callbacks=[CheckpointPush(args)], args=PUSH | {"hub_strategy": "end"})


class Saves(TrainerCallback):
    """Notes which checkpoints it could publish."""

    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **kwargs):
        assert (self.folder / f"checkpoint-{state.global_step}" / "config.json").is_file()
        self.steps.append(state.global_step)


class Publisher(CheckpointPublisher, Saves):
    """As somebody would write one for another place than the Hub."""


def test_any_publisher_gets_complete_checkpoints_and_nothing_else_is_pushed(tmp_path, tiny_resnet):
    publisher = Publisher()
    publisher.folder = tmp_path
    args = PUSH | {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "report_to": []}
    build(tmp_path, tiny_resnet, callbacks=[publisher], args=args).train()  # offline: a push would fail
    assert publisher.steps == [1, 2]


def test_other_callbacks_are_not_taken_for_one(tmp_path, tiny_resnet):
    with pytest.raises(ValueError, match="none of the Trainer's `callbacks` pushes"):
        build(tmp_path, tiny_resnet, callbacks=[Saves()], args=PUSH)
    build(tmp_path, tiny_resnet, callbacks=[Saves()])


@pytest.mark.parametrize(
    ("method", "way_out"),
    [
        ("push_to_hub", "push_run"),
        ("predict", "lejepa embed"),
        ("prediction_step", "lejepa embed"),
        ("evaluation_loop", "`evaluate` measures held-out images"),
        ("hyperparameter_search", "a Trainer with its own `output_dir` for each trial"),
    ],
)
def test_methods_without_an_effect_say_so(tmp_path, method, way_out):
    with pytest.raises(NotImplementedError, match=f"`{method}` .*{re.escape(way_out)}"):
        getattr(monitored(tmp_path), method)()


@pytest.mark.parametrize("mixed", [False, True])
def test_training_images_are_not_held_out(tmp_path, tiny_resnet, mixed):
    stream = DIGITS.to_iterable_dataset()
    for dataset, again in ((DIGITS, load_source("digits", "test").dataset), (stream, stream)):
        train = Mixture([dataset, dataset], [1, 1]) if mixed else dataset
        with pytest.raises(ValueError, match="`eval_dataset` has the images of `train_dataset`.*not held out"):
            build(tmp_path, tiny_resnet, train_dataset=train, eval_dataset=again)
    build(tmp_path, tiny_resnet, eval_dataset=DIGITS.select(range(9)))  # which its first evaluation names
