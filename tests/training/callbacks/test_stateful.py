import torch
from monitored_run import monitored
from safetensors.torch import load_file, save_file

from lejepa_hf.training.callbacks.stateful import StatefulCallback


class Counter(StatefulCallback):
    """Counts steps, in a file of its own."""

    def __init__(self):
        self.steps, self.loaded = 0, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def save_state(self, folder):
        save_file({"steps": torch.tensor(self.steps)}, folder / "counter.safetensors")

    def load_state(self, folder):
        self.steps = int(load_file(folder / "counter.safetensors")["steps"])
        self.loaded.append(folder.name)


def run(folder, **kwargs):
    trainer, counter = monitored(folder, monitors=[], **kwargs), Counter()
    trainer.add_callback(counter)
    return trainer, counter


def test_states_go_on_where_the_checkpoint_was(tmp_path):
    run(tmp_path, eval_strategy="no")[0].train()
    trainer, counter = run(tmp_path / "again", eval_strategy="no")
    trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    assert counter.loaded == ["checkpoint-3"] and counter.steps == 6
    trainer, counter = run(tmp_path, eval_strategy="no")
    trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-6")  # finished: no step, the state all the same
    assert counter.loaded == ["checkpoint-6"] and counter.steps == 6


def test_the_state_of_the_best_model_comes_with_it(tmp_path):
    settings = {
        "max_steps": 4,
        "save_steps": 1,
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_total_limit": 4,
    }
    trainer, counter = run(tmp_path, **settings)
    trainer.train()
    assert counter.loaded == [f"checkpoint-{trainer.state.best_global_step}"]
    assert counter.steps == trainer.state.best_global_step


class Own(Counter):
    """Does something of its own when training begins."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        pass


def test_states_are_loaded_whatever_a_callback_does_when_training_begins(tmp_path):
    run(tmp_path, eval_strategy="no")[0].train()
    trainer, own = monitored(tmp_path / "again", monitors=[], eval_strategy="no"), Own()
    trainer.add_callback(own)
    trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    assert own.loaded == ["checkpoint-3"] and own.steps == 6
