import pytest
import torch
from test_trainer import model_for, trainer_for
from torch.optim.lr_scheduler import LambdaLR, StepLR
from transformers import TrainerControl, TrainerState

from lejepa_hf.training.resumed_rates import ResumedRates


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


def resumed(rate: float, decay: float, step: int = 4, schedule_of=by_step):
    """An optimizer and its schedule that have loaded a checkpoint of step 4, of rate 0.5 and weight decay 0.1."""
    old = optimizer_with(0.5, 0.1)
    old_schedule = schedule_of(old)
    for _ in range(4):
        old.step()
        old_schedule.step()
    optimizer, rates = optimizer_with(rate, decay), ResumedRates()
    rates.remember(optimizer)
    schedule = schedule_of(optimizer)
    optimizer.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    state = TrainerState(global_step=step)
    rates.on_train_begin(None, state, TrainerControl(), optimizer=optimizer, lr_scheduler=schedule)
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


@pytest.mark.parametrize("kept", [{"step": 0}, {"schedule_of": lambda optimizer: StepLR(optimizer, 100)}])
def test_a_start_and_schedules_of_other_kinds_are_left_alone(kept):
    optimizer, schedule = resumed(2.0, 0.3, **kept)
    assert values(optimizer, "lr") == schedule.get_last_lr() != [2.0 / 5] * 2
    assert values(optimizer, "weight_decay") == [0.1, 0.0]


def test_another_number_of_groups_is_an_error():
    rates, optimizer = ResumedRates(), optimizer_with(0.5, 0.1)
    rates.remember(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5))
    given = {"optimizer": optimizer, "lr_scheduler": by_step(optimizer)}
    with pytest.raises(ValueError, match="shorter"):
        rates.on_train_begin(None, TrainerState(global_step=1), TrainerControl(), **given)
