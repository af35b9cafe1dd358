import pytest
import torch
from test_trainer import losses, model_for, trainer_for
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lejepa_hf import LeJEPATrainer
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.resumed_rates import note_full_rates, own_rates_kept


def test_a_new_learning_rate_is_obeyed_on_resume_and_said(tmp_path, tiny_resnet, caplog):
    first = trainer_for(tmp_path, model_for(tiny_resnet), learning_rate=1e-2)
    first.train()
    second = trainer_for(tmp_path, model_for(tiny_resnet), learning_rate=1e-3, weight_decay=0.2)
    second.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    logged = [
        [row["learning_rate"] for row in trainer.state.log_history if row["step"] > 3 and "loss" in row]
        for trainer in (first, second)
    ]
    assert len(logged[1]) == 3 and logged[1] == pytest.approx([rate / 10 for rate in logged[0]], rel=1e-6)
    assert {group["weight_decay"] for group in second.optimizer.param_groups} == {0.2, 0.0}
    assert "`learning_rate` was 0.01, is 0.001" in caplog.text


def by_step(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


def optimizer_with(rate: float, decay: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "weight_decay": each} for each in (decay, 0.0)]
    return torch.optim.SGD(groups, lr=rate)


def resumed(rate: float, decay: float):
    """An optimizer and its schedule that have loaded a checkpoint of step 4, of rate 0.5 and weight decay 0.1."""
    old = optimizer_with(0.5, 0.1)
    old_schedule = by_step(old)
    for _ in range(4):
        old.step()
        old_schedule.step()
    optimizer = optimizer_with(rate, decay)
    schedule = by_step(optimizer)
    with own_rates_kept(optimizer, schedule):
        optimizer.load_state_dict(old.state_dict())
        schedule.load_state_dict(old_schedule.state_dict())
    return optimizer, schedule


def values(optimizer, name: str) -> list[float]:
    return [group[name] for group in optimizer.param_groups]


def test_new_rates_continue_the_schedule_at_its_step():
    optimizer, schedule = resumed(2.0, 0.3)
    assert values(optimizer, "lr") == schedule.get_last_lr() == [2.0 / 5] * 2
    assert values(optimizer, "weight_decay") == [0.3, 0.0]
    optimizer.step()
    schedule.step()
    assert values(optimizer, "lr") == schedule.get_last_lr() == [2.0 / 6] * 2


def test_equal_rates_leave_the_loaded_ones_to_the_last_bit():
    optimizer, schedule = resumed(0.5, 0.3)
    assert values(optimizer, "lr") == schedule.get_last_lr() == [0.5 / 5] * 2
    assert values(optimizer, "weight_decay") == [0.3, 0.0]


# Schedules by name, of an optimizer and the factor of its rates.
SCHEDULES = {
    "lambda": lambda optimizer, rate: by_step(optimizer),
    "step": lambda optimizer, rate: StepLR(optimizer, 2),
    "cosine": lambda optimizer, rate: CosineAnnealingLR(optimizer, 10),
    "one cycle": lambda optimizer, rate: OneCycleLR(optimizer, [1e-4 * rate, 1e-3 * rate], total_steps=20),
    "sequential": lambda optimizer, rate: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 10)], [4]
    ),
    "chained": lambda optimizer, rate: ChainedScheduler(
        [LinearLR(optimizer, 0.1, total_iters=4), ExponentialLR(optimizer, 0.9)]
    ),
    "plateau": lambda optimizer, rate: ReduceLROnPlateau(optimizer, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD, torch.optim.NAdam])
def test_every_group_keeps_its_own_rate(name, optimizer_class):
    """Resumed equals uninterrupted, and a changed rate changes each group's in proportion."""
    uninterrupted = with_groups(optimizer_class, name, 6)
    assert with_groups(optimizer_class, name, 3, resumed_for=3) == uninterrupted
    assert uninterrupted[-1][1] == pytest.approx(10 * uninterrupted[-1][0])
    for kwargs in ({"rate": 2.0}, {"factor": 2.0}):
        changed = with_groups(optimizer_class, name, 3, resumed_for=3, **kwargs)
        assert changed[:3] == uninterrupted[:3]
        assert changed[3:] == [pytest.approx([2 * each for each in rates]) for rates in uninterrupted[3:]]


def with_groups(optimizer_class, schedule: str, steps: int, resumed_for: int = 0, rate=1.0, factor=1.0):
    """Rates of two groups at each step, those after resuming with others asked for."""

    def made(rate):
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": own * rate} for own in (1e-4, 1e-3)]
        optimizer = optimizer_class(groups, lr=1.0)
        made_schedule = SCHEDULES[schedule](optimizer, rate)
        note_full_rates(optimizer)
        return optimizer, made_schedule

    def train(optimizer, schedule, steps):
        for _ in range(steps):
            optimizer.step()
            found.append(values(optimizer, "lr"))
            schedule.step(*([1.0] if isinstance(schedule, ReduceLROnPlateau) else []))

    found, (old, old_schedule) = [], made(1.0)
    train(old, old_schedule, steps)
    if resumed_for:
        optimizer, new_schedule = made(rate)
        with own_rates_kept(optimizer, new_schedule, factor):
            optimizer.load_state_dict(old.state_dict())
            new_schedule.load_state_dict(old_schedule.state_dict())
        train(optimizer, new_schedule, resumed_for)
    return found


class OwnGroups(LeJEPATrainer):
    """A user's subclass with rates by layer."""

    def create_optimizer(self, model=None):
        parts = ((self.model.encoder, 1e-4), (self.model.projector, 1e-3))
        self.optimizer = torch.optim.AdamW([{"params": list(part.parameters()), "lr": rate} for part, rate in parts])
        return self.optimizer


@pytest.mark.parametrize("made_by", ["a subclass", pytest.param("the caller", marks=pytest.mark.slow)])
def test_a_run_with_rates_by_layer(tmp_path, tiny_resnet, made_by):
    def trained(**kwargs):
        trainer = trainer_for(tmp_path, model_for(tiny_resnet), save_total_limit=None)
        if made_by == "a subclass":
            trainer.__class__ = OwnGroups
        else:
            trainer.optimizer = OwnGroups.create_optimizer(trainer)
        trainer.train(**kwargs)
        return losses(trainer), values(trainer.optimizer, "initial_lr"), values(trainer.optimizer, "lr")

    uninterrupted = trained()
    assert uninterrupted[1] == [1e-4, 1e-3]
    assert trained(resume_from_checkpoint=tmp_path / "checkpoint-3") == uninterrupted


def test_another_number_of_groups_is_an_error():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.raises(ValueError, match="shorter"), own_rates_kept(optimizer, by_step(optimizer)):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})  # as a loaded one may have


def test_rates_are_noted_where_the_schedule_does_not(tmp_path, tiny_resnet):
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 3}
    held_out = load_source("digits", "test").dataset
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), eval_dataset=held_out, **settings)
    trainer.create_optimizer_and_scheduler(num_training_steps=3)
    assert isinstance(trainer.lr_scheduler, ReduceLROnPlateau)
    assert values(trainer.optimizer, "initial_lr") == values(trainer.optimizer, "lr")
