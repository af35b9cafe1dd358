import dataclasses
import os

import pytest
import torch
from monitored_run import monitored
from safetensors.torch import load_file
from test_trainer import losses, model_for, trainer_for
from transformers import TrainerState

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.training.checkpoints import complete_checkpoints


def test_the_best_checkpoint_is_named_where_it_lies(tmp_path):
    trainer = monitored(
        tmp_path, max_steps=4, save_steps=1, eval_steps=1, load_best_model_at_end=True, save_total_limit=2, monitors=[]
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}")
    saved = TrainerState.load_from_json(str(complete_checkpoints(tmp_path)[0] / "trainer_state.json"))
    assert saved.best_model_checkpoint == best
    assert not list(tmp_path.glob("_*"))


@pytest.mark.slow
def test_the_best_checkpoint_is_found_from_another_folder(tmp_path):
    settings = {"eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True, "greater_is_better": True}
    settings |= {"learning_rate": 1e-2, "monitors": []}
    first = monitored(tmp_path / "a", max_steps=3, **settings)
    first.train()
    best = first.state.best_global_step
    weights = load_file(tmp_path / f"a/checkpoint-{best}/model.safetensors")
    assert best < 3
    branch = monitored(tmp_path / "c", max_steps=4, **settings)
    branch.train(resume_from_checkpoint=tmp_path / "a/checkpoint-3")
    assert branch.state.best_model_checkpoint == str(tmp_path / f"a/checkpoint-{best}")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = monitored(tmp_path / "b", max_steps=3, **settings)
    moved.train(resume_from_checkpoint=True)
    assert moved.state.best_model_checkpoint == str(tmp_path / f"b/checkpoint-{best}")
    assert all(torch.equal(weights[name], value) for name, value in moved.model.named_parameters())


def test_weights_alone_are_enough_for_the_best_model(tmp_path):
    """It was looked for where checkpoints are written, and not found."""
    trainer = monitored(
        tmp_path, max_steps=4, save_steps=1, eval_steps=1, load_best_model_at_end=True, save_only_model=True,
        monitors=[], ema_decay=0.5,
    )  # fmt: skip
    trainer.train()
    best = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(best)
    assert (best / "encoder_average.safetensors").is_file()
    LeJEPAForPreTraining.from_pretrained(best)


def test_arguments_are_the_same_after_a_checkpoint(tmp_path):
    trainer = monitored(tmp_path, max_steps=3, eval_strategy="no", hub_token="hf_secret")
    before = trainer.args, dataclasses.asdict(trainer.args)
    trainer.train()
    assert (trainer.args, dataclasses.asdict(trainer.args)) == before and trainer.args is before[0]


def test_the_newest_checkpoint_stays_when_the_clock_goes_back(tmp_path, tiny_resnet):
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=2, save_steps=2, save_total_limit=1).train()
    tomorrow = (tmp_path / "checkpoint-2").stat().st_mtime + 86_400
    os.utime(tmp_path / "checkpoint-2", (tomorrow, tomorrow))
    resumed = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=6, save_steps=2, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_checkpoints_written_after_an_earlier_step_stay(tmp_path, tiny_resnet):
    """A run that resumed from step 2 has later ones beside it, of the way that was given up."""
    settings = {"save_steps": 2, "save_total_limit": 2}
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=8, save_steps=2, save_total_limit=None).train()
    resumed = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=4, **settings)
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


DAMAGES = {
    "scheduler.pt": None,
    "optimizer.pt": b"",
    "rng_state.pth": b"torn",
    "model.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
    "data_position_0.json": b"{",
}


def test_a_run_falls_back_to_the_last_whole_checkpoint(tmp_path, tiny_resnet, caplog):
    """And goes on from there as if it had never been stopped."""
    settings = {"max_steps": 7, "save_steps": 1, "save_total_limit": None}
    uninterrupted = trainer_for(tmp_path, model_for(tiny_resnet), **settings)
    uninterrupted.train()
    for step, (name, content) in enumerate(DAMAGES.items(), start=3):
        path = tmp_path / f"checkpoint-{step}" / name
        path.unlink() if content is None else path.write_bytes(content)
    resumed = trainer_for(tmp_path, model_for(tiny_resnet), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(uninterrupted)
    assert [row["step"] for row in resumed.state.log_history if "loss" in row] == list(range(1, 8))
    assert "Training continues from checkpoint-2." in caplog.text
    for step, name in enumerate(DAMAGES, start=3):
        assert f"checkpoint-{step} is skipped, because {name} is" in caplog.text


@pytest.mark.parametrize("given", [True, "auto"])
def test_nothing_to_resume_from(tmp_path, tiny_resnet, given):
    with pytest.raises(ValueError, match=f"`resume_from_checkpoint` is {given}, but '.*' has no checkpoint"):
        trainer_for(tmp_path, model_for(tiny_resnet)).train(resume_from_checkpoint=given)


def test_false_means_from_the_first_step_on(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=2)
    trainer.train(resume_from_checkpoint=False)
    assert [step for step, _ in losses(trainer)] == [1, 2]


def test_a_damaged_checkpoint_given_by_name(tmp_path, tiny_resnet):
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=3).train()
    (tmp_path / "checkpoint-3" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"not a complete checkpoint \(scheduler.pt is missing\)"):
        trainer_for(tmp_path, model_for(tiny_resnet)).train(resume_from_checkpoint=tmp_path / "checkpoint-3")


def test_a_damaged_best_checkpoint_leaves_the_last_weights(tmp_path, caplog):
    settings = {"eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True, "greater_is_better": True}
    settings |= {"learning_rate": 1e-2, "monitors": [], "save_total_limit": None}
    trainer = monitored(tmp_path, max_steps=3, **settings)
    trainer.train()
    best = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    assert best.name != "checkpoint-3"
    (best / "model.safetensors").write_bytes(b"torn")
    resumed = monitored(tmp_path, max_steps=3, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert f"'{best}' cannot be read (model.safetensors is damaged" in caplog.text
    last = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in resumed.model.named_parameters())
