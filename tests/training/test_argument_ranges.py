import dataclasses
import re
from math import inf, nan
from typing import get_args, get_type_hints

import pytest
from test_trainer import model_for, trainer_for

from lejepa_hf import LeJEPATrainingArguments
from lejepa_hf.training.argument_ranges import RANGES
from lejepa_hf.training.argument_table import ARGUMENTS, Refused

HINTS = get_type_hints(LeJEPATrainingArguments)
NUMBERS = [
    field.name
    for field in dataclasses.fields(LeJEPATrainingArguments)
    if field.init
    and {int, float} & {HINTS[field.name], *get_args(HINTS[field.name])}
    and not isinstance(ARGUMENTS.get(field.name), Refused)
]


def arguments(folder, **given):
    return LeJEPATrainingArguments(output_dir=str(folder), use_cpu=True, **given)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_numeric_argument_refuses_what_is_not_a_number_in_its_range(tmp_path, name):
    assert name in RANGES, f"`{name}` is new in transformers: decide in training/argument_ranges.py which numbers fit"
    for value in (nan, -3, -inf, "many"):
        with pytest.raises(ValueError, match=rf"^`{name}` must be [^\n]*, got {re.escape(repr(value))}[^\n]*$"):
            arguments(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("max_steps", 0, "-1 trains for `num_train_epochs`"),
        ("save_steps", 0, "`save_strategy: 'no'` saves no checkpoint"),
        ("logging_steps", inf, "`logging_strategy: 'no'` logs nothing"),
        ("eval_steps", 0, "`eval_strategy: 'no'` evaluates nothing"),
        ("save_total_limit", 0, "null keeps all checkpoints"),
        ("save_total_limit", -1, "null keeps all checkpoints"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", inf, "finite"),
        ("adam_beta2", 1.0, "in [0, 1)"),
        ("seed", 2**32, "at most 4294967295"),
        ("dataloader_num_workers", 10**9, "at most 1024"),
        ("gradient_accumulation_steps", 2**64, "at most 2147483647"),
        ("gradient_accumulation_steps", -2, "at least 1"),
        ("shuffle_buffer_size", 1.5, "a whole number"),
        ("num_train_epochs", inf, "or set `max_steps`"),
    ],
)
def test_the_way_out_is_named(tmp_path, name, value, way_out):
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*{re.escape(way_out)}"):
        arguments(tmp_path, **{name: value})


def test_values_at_the_ends_are_accepted(tmp_path):
    ends = {
        "max_steps": 1, "num_train_epochs": -1, "warmup_steps": 0, "weight_decay": 0, "max_grad_norm": inf,
        "adam_beta1": 0, "save_total_limit": 1, "seed": 2**32 - 1, "dataloader_num_workers": 0, "logging_steps": 0.5,
    }  # fmt: skip
    args = arguments(tmp_path, **ends)
    assert {name: getattr(args, name) for name in ends} == ends


def test_a_decay_that_replaces_the_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`weight_decay` 50000 times `learning_rate` 0.0005 must be below 1"):
        arguments(tmp_path, weight_decay=50000)


def test_two_precisions_at_once_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`fp16` and `bf16` are both true"):
        arguments(tmp_path, fp16=True, bf16=True)


def test_a_warmup_longer_than_the_run_is_told(tmp_path, tiny_resnet, caplog):
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=5, warmup_steps=5)
    assert "warmup_steps" not in caplog.text
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=5, warmup_steps=100)
    assert "`warmup_steps` 100 is more than the 5 steps of this run" in caplog.text
