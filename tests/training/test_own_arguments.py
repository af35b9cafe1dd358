import copy

import pytest
from monitored_run import monitored, rows
from test_trainer import losses, model_for, trainer_for

from lejepa_hf import LeJEPATrainingArguments
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.own_arguments import count_steps, fitting_kwargs, own_arguments


@pytest.mark.parametrize(
    "kind",
    ["cosine", "constant", "polynomial"]
    + [pytest.param(kind, marks=pytest.mark.slow) for kind in ("linear", "constant_with_warmup", "inverse_sqrt")],
)
def test_other_schedules_train(tmp_path, tiny_resnet, kind):
    """They crashed on `min_lr_rate`, the default of the cosine."""
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), lr_scheduler_type=kind, max_steps=2, save_strategy="no")
    assert trainer.args.lr_scheduler_kwargs is None
    trainer.train()
    assert len(losses(trainer)) == 2


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("linear", {"min_lr_rate": 0.1}, "`min_lr_rate` does not fit `lr_scheduler_type` 'linear', which takes none"),
        ("cosine", {"min_lr_rate": 1e-3}, "`min_lr_rate` does not fit .*, which takes num_cycles"),
        ("constant", {"num_cycles": 2}, "`num_cycles` does not fit"),
        ("reduce_lr_on_plateau", {"min_lr_rate": 0.1}, "`min_lr_rate` does not fit"),
        ("warmup_stable_decay", None, "num_decay_steps"),
        ("cosine_warmup_with_min_lr", None, "`lr_scheduler_kwargs` None do not make a schedule"),
        ("cosine", "min.json", "`lr_scheduler_kwargs` must be names and values"),
        (
            "cosine_with_min_lr",
            {"min_lr_rate": float("nan")},
            "kwargs.min_lr_rate` must be a number, got nan",
        ),
        (
            "cosine_with_min_lr",
            {"min_lr_rate": -1.0},
            "kwargs.min_lr_rate` must be at least 0, got -1.0",
        ),
        ("cosine_with_min_lr", {"min_lr": 1.0}, "would reach .* times `learning_rate`, which must stay in"),
        ("inverse_sqrt", {"timescale": 0}, "division by zero"),
    ],
)
def test_kwargs_that_do_not_fit_are_refused_by_name(tmp_path, kind, given, message):
    settings = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": given, "eval_strategy": "steps"}
    with pytest.raises(ValueError, match=message):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_kwargs_that_fit_are_kept():
    assert fitting_kwargs("cosine_with_min_lr", None) == {"min_lr_rate": 1e-3}
    assert fitting_kwargs("cosine_with_min_lr", {"min_lr": 1e-6}) == {"min_lr": 1e-6}
    assert fitting_kwargs("constant", {"min_lr_rate": 1e-3}) is None  # as recipes of version 0.1.0 hold it


@pytest.mark.parametrize(("settings", "steps"), [({"num_train_epochs": 0.55}, 2), ({"max_steps": 7}, 7)])
def test_a_part_of_a_batch_is_a_step(tmp_path, settings, steps):
    args = LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert count_steps(args, 10, 5) == steps  # of 5.5 images


@pytest.mark.slow
def test_epochs_fire(tmp_path):
    """1347 images in batches of 400: four steps an epoch; none of the three ever fired."""
    trainer = monitored(
        tmp_path, max_steps=-1, num_train_epochs=2, per_device_train_batch_size=400, logging_strategy="epoch",
        eval_strategy="epoch", save_strategy="epoch", save_total_limit=None, eval_steps=None, monitors=[],
        label_column=None,
    )  # fmt: skip
    assert trainer.args.max_steps == 7
    trainer.train()
    assert [row["step"] for row in rows(trainer)] == [4, 7]
    assert [row["step"] for row in rows(trainer, "eval_loss")] == [4, 7]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-7"]


def test_an_evaluation_may_be_delayed_by_epochs(tmp_path):
    args = LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="epoch", eval_delay=2)
    own = own_arguments(args, 100, 10)
    assert (own.eval_strategy, own.eval_steps, own.eval_delay) == ("steps", 10, 20)
    assert (args.eval_strategy, args.eval_delay, args.max_steps) == ("epoch", 2, -1)


@pytest.mark.parametrize("name", ["logging", "eval", "save"])
def test_a_stream_of_unknown_length_has_no_epochs(tmp_path, tiny_resnet, name):
    digits = load_source("digits").dataset
    with pytest.raises(ValueError, match=f"`{name}_strategy` 'epoch' needs .*: use 'steps' with `{name}_steps`"):
        trainer_for(
            tmp_path, model_for(tiny_resnet), digits.to_iterable_dataset(), digits, **{f"{name}_strategy": "epoch"}
        )


def test_arguments_of_the_caller_stay_as_they_are(tmp_path, tiny_resnet):
    """The second Trainer had the `max_steps` of the first."""
    from test_trainer import TRANSFORM

    from lejepa_hf import LeJEPATrainer, MultiCropCollator

    args = LeJEPATrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8, save_strategy="epoch",
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": False}},
    )  # fmt: skip
    before = copy.deepcopy(args.to_dict())
    digits = load_source("digits").dataset
    trainers = [
        LeJEPATrainer(model_for(tiny_resnet), args, images, MultiCropCollator(TRANSFORM))
        for images in (digits, digits.select(range(80)))
    ]
    assert [trainer.args.max_steps for trainer in trainers] == [506, 30]
    assert args.to_dict() == before
