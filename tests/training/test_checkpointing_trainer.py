import dataclasses

from monitored_run import monitored
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
