import pytest
import torch

from lejepa_hf import LeJEPATrainingArguments


def test_defaults_are_the_methods(tmp_path):
    args = LeJEPATrainingArguments(output_dir=str(tmp_path))
    assert args.learning_rate == 5e-4 and args.weight_decay == 0.05 and args.max_grad_norm == 0
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 1e-3}
    assert args.get_warmup_steps(1000) == 100
    assert not args.remove_unused_columns


def test_schedule_warms_up_linearly_and_ends_at_a_thousandth(tmp_path):
    from transformers import get_scheduler

    args = LeJEPATrainingArguments(output_dir=str(tmp_path))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, 20, 200, args.lr_scheduler_kwargs)
    rates = []
    for _ in range(200):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[10] == pytest.approx(0.5) and rates[20] == pytest.approx(1.0)
    assert rates == sorted(rates[:21]) + sorted(rates[21:], reverse=True)
    assert schedule.get_last_lr()[0] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("per_device_train_batch_size", 1, "single image"),
        ("remove_unused_columns", True, "image column"),
        ("shuffle_buffer_size", 0, "at least 1"),
    ],
)
def test_settings_that_lose_something_are_refused(tmp_path, field, value, reason):
    with pytest.raises(ValueError, match=f"`{field}`.*{reason}"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), **{field: value})
