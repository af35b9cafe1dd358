import dataclasses

import torch
from monitored_run import monitored
from safetensors.torch import load_file
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
