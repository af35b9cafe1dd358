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
        ("save_on_each_node", True, "a part of every rank"),
        ("shuffle_buffer_size", 0, "at least 1"),
    ],
)
def test_settings_that_lose_something_are_refused(tmp_path, field, value, reason):
    with pytest.raises(ValueError, match=f"`{field}`.*{reason}"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), **{field: value})


def test_workers_follow_from_the_cores_unless_given(tmp_path, monkeypatch):
    def workers(cores: int, **given) -> int:
        monkeypatch.setattr("lejepa_hf.training_args.cores_of_this_process", lambda: cores)
        return LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given).dataloader_num_workers

    assert [workers(cores) for cores in (1, 2, 8, 96)] == [0, 0, 2, 16]
    assert workers(2, dataloader_prefetch_factor=4) == 1
    assert workers(8, dataloader_num_workers=0) == 0 and workers(1, dataloader_num_workers=3) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_bad_fraction", 1.5),
        ("max_network_retries", -1),
        ("num_train_epochs", 0),
        ("num_train_epochs", float("nan")),
        ("gradient_accumulation_steps", 0),
        ("per_device_train_batch_size", 0),
    ],
)
def test_limits_out_of_range_are_refused(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be .*{value}"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("monitors", ["probe", "rank"], "rank unknown; known are embeddings"),
        ("monitor_images", 1, "at least 2, got 1"),
    ],
)
def test_monitors_out_of_range_are_refused(tmp_path, field, value, way_out):
    with pytest.raises(ValueError, match=f"`{field}`.*{way_out}"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{field: value})


def test_what_loggers_are_given_names_no_token_and_no_folder(tmp_path):
    args = LeJEPATrainingArguments(output_dir=str(tmp_path / "mine"), hub_token="hf_secret", resume="~/a/checkpoint-3")
    shown = args.to_json_string()
    assert "hf_secret" not in shown and str(tmp_path) not in shown and "~" not in shown
    assert args.to_dict()["output_dir"] == "mine" and args.to_dict()["resume"] == "checkpoint-3"
    assert args.output_dir == str(tmp_path / "mine")


def test_torn_json_is_quoted(tmp_path):
    with pytest.raises(ValueError, match=r"'\{\"min_lr\": ' is not an argument's value in JSON, Expecting value"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_kwargs='{"min_lr": ')


def test_bf16_auto_follows_the_device(tmp_path, monkeypatch):
    def decided(is_faster: bool, **given) -> bool | str:
        monkeypatch.setattr("lejepa_hf.training_args.computes_in_bf16", lambda device: is_faster)
        return LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given).bf16

    assert decided(True, bf16="auto") is True and decided(False, bf16="auto") is False
    assert decided(True) is False and decided(False, bf16=True) is True
    with pytest.raises(ValueError, match="`bf16` must be true, false or 'auto', got 'fast'"):
        decided(True, bf16="fast")


def test_bf16_auto_leaves_fp16_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("lejepa_hf.training_args.computes_in_bf16", lambda device: True)
    args = LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16="auto", fp16=True)
    assert args.bf16 is False and args.fp16 is True
