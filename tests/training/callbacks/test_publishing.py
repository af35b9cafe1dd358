import pytest
from test_trainer import TRANSFORM, model_for
from transformers import TrainerCallback

from lejepa_hf import LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator
from lejepa_hf.data.sources import load_source
from lejepa_hf.hub.checkpoint_push import CheckpointPush
from lejepa_hf.training.callbacks.publishing import CheckpointPublisher

PUSH = {"push_to_hub": True, "hub_model_id": "me/encoder"}


def build(folder, backbone, callbacks=(), args=()) -> LeJEPATrainer:
    settings = {"output_dir": str(folder), "use_cpu": True, "max_steps": 1} | dict(args)
    return LeJEPATrainer(
        model=model_for(backbone), args=LeJEPATrainingArguments(**settings), callbacks=list(callbacks),
        train_dataset=load_source("digits", "test").dataset, data_collator=MultiCropCollator(TRANSFORM),
    )  # fmt: skip


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
