import dataclasses
import inspect
import json
import re

import pytest
from monitored_run import monitored, rows
from test_trainer import TRANSFORM, model_for, trainer_for
from transformers import Trainer, TrainingArguments

from lejepa_hf import LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.argument_table import ARGUMENTS, CONSTRUCTOR, Honoured, Refused, Translated

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}


def another(value: object) -> object:
    """A value that asks for something else."""
    if isinstance(value, bool):
        return not value
    return {"no": "all", "random": "group_by_length"}.get(value, "other") if isinstance(value, str) else 3


@pytest.mark.parametrize("name", FIELDS)
def test_every_argument_of_the_installed_class_is_decided(tmp_path, name):
    assert name in ARGUMENTS, (
        f"`{name}` is new in transformers: decide in training/argument_table.py what becomes of it"
    )
    decision = ARGUMENTS[name]
    assert isinstance(decision, Honoured | Translated | Refused)
    if isinstance(decision, Refused):
        value = another(decision.accepted[0])
        with pytest.raises(ValueError, match=f"`{name}` must be .*, got {re.escape(repr(value))}: .{{20}}"):
            LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: value})


def test_nothing_is_refused_by_default_nor_when_arguments_are_copied(tmp_path):
    args = LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="steps")
    assert dataclasses.replace(args, learning_rate=1e-3).learning_rate == 1e-3


@pytest.mark.parametrize("name", [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"])
def test_every_argument_of_the_constructor_is_decided(tmp_path, tiny_resnet, name):
    assert name in CONSTRUCTOR, f"`{name}` of the Trainer is new: decide in training/argument_table.py"
    if isinstance(CONSTRUCTOR[name], Refused):
        with pytest.raises(ValueError, match=f"`{name}` must be None"):
            LeJEPATrainer(
                model_for(tiny_resnet),
                LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True),
                load_source("digits").dataset,
                **{name: lambda *_: {}},
            )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"accelerator_config": {"split_batches": True}}, "`accelerator_config` sets split_batches"),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
            "use `gradient_accumulation_steps`",
        ),
        ({"metric_for_best_model": "accuracy"}, "`metric_for_best_model` must be one of loss, .*, got 'accuracy'"),
        ({"report_to": ["wanbd"]}, "`report_to` 'wanbd' is unknown; known are .*wandb"),
        ({"do_eval": True}, "`do_eval` is true but `eval_strategy` is 'no'"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "`save_strategy` 'best' needs evaluations"),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size` must be False, got True: .*`lejepa plan"),
    ],
)
def test_values_that_cannot_be_honoured(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


def test_workers_are_started_as_asked_for(tmp_path, tiny_resnet):
    trainer = trainer_for(
        tmp_path, model_for(tiny_resnet), max_steps=1, dataloader_num_workers=1,
        dataloader_multiprocessing_context="forkserver",
    )  # fmt: skip
    assert trainer.get_train_dataloader().multiprocessing_context.get_start_method() == "forkserver"


def test_evaluations_before_the_first_step(tmp_path):
    trainer = monitored(tmp_path, eval_on_start=True, max_steps=1)
    trainer.train()
    assert [row["step"] for row in rows(trainer, "eval_loss")] == [0, 1]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0


def test_own_optimizers_are_used(tmp_path, tiny_resnet):
    import torch

    model = model_for(tiny_resnet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    args = LeJEPATrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=2, logging_steps=1, disable_tqdm=True
    )
    trainer = LeJEPATrainer(
        model, args, load_source("digits").dataset, MultiCropCollator(TRANSFORM), optimizers=(optimizer, schedule)
    )
    trainer.train()
    assert [row["learning_rate"] for row in rows(trainer)] == [0.5, 0.5]
