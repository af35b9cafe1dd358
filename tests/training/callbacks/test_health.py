import logging
from types import SimpleNamespace

import pytest
from monitored_run import monitored, rows
from transformers import TrainerCallback, TrainerState

from lejepa_hf.training.callbacks.health import HealthWatch

HEALTHY = {"loss": 0.5, "sigreg_loss": 2.0, "effective_rank": 20.0, "embedding_spread": 1.0}
ARGS = SimpleNamespace(get_warmup_steps=lambda steps: 2)


def warnings(caplog, changes: list[dict], history: int = 0, **state) -> list[str]:
    """What is said of healthy rows with these changes, the first few of which a resumed run already has."""
    watch, every = HealthWatch(collapsed_sigreg=0.402 * 64), [HEALTHY | change for change in changes]
    past = [{**row, "step": step} for step, row in enumerate(every[:history], 1)]
    state = TrainerState(max_steps=100, log_history=past, **{"is_world_process_zero": True} | state)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        watch.on_train_begin(ARGS, state, None)
        for step, row in enumerate(every[history:], history + 1):
            state.global_step = step
            watch.on_log(ARGS, state, None, logs=row)
            watch.on_log(ARGS, state, None, logs={"eval_loss": 1.0})  # no row of training
    return [record.message for record in caplog.records]


@pytest.mark.parametrize(
    ("trouble", "rows_needed", "words"),
    [
        ({"sigreg_loss": 25.0}, 3, ["`sigreg_loss` is 25", "same point, 25.73", "Raise `sigreg_weight`"]),
        ({"effective_rank": 1.9}, 3, ["`effective_rank` is 1.9", "best was 20", "few dimensions", "`learning_rate`"]),
        ({"embedding_spread": 0.009}, 3, ["`embedding_spread` is 0.009", "best was 1", "`sigreg_weight`"]),
        ({"loss": 1.6}, 5, ["`loss` is 1.6", "3 times its best, 0.5", "Lower `learning_rate`", "warmup"]),
    ],
)
def test_trouble_is_named_once_with_its_remedy(caplog, trouble, rows_needed, words):
    healthy = [{}] * 5
    assert warnings(caplog, healthy + [trouble] * (rows_needed - 1) + [{}] + [trouble] * (rows_needed - 1)) == []
    (message,) = warnings(caplog, healthy + [trouble] * 20)
    assert message.startswith(f"Step {5 + rows_needed}: ") and all(word in message for word in words)
    assert warnings(caplog, healthy + [trouble] * 20, is_world_process_zero=False) == []
    # Resumed: what was said is not said again, what was building up goes on.
    assert warnings(caplog, healthy + [trouble] * 20, history=5 + rows_needed) == []
    assert warnings(caplog, healthy + [trouble] * 20, history=4 + rows_needed) == [message]


def test_a_tenth_of_the_best_rank(caplog):
    best = [{"effective_rank": 60.0}] * 5
    assert warnings(caplog, best + [{"effective_rank": 6.1}] * 5) == []
    assert len(warnings(caplog, best + [{"effective_rank": 5.9}] * 5)) == 1


def test_warmup_is_given_time(caplog):
    far = {"sigreg_loss": 200.0, "effective_rank": 1.5}
    assert warnings(caplog, [far] * 4) == []  # two of them in warmup
    assert len(warnings(caplog, [far] * 5)) == 2


def test_nothing_is_judged_by_what_is_not_there(caplog):
    watch = HealthWatch()
    state = TrainerState(max_steps=100, is_world_process_zero=True, global_step=50)
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        for _ in range(9):
            watch.on_log(ARGS, state, None, logs={"loss": 1.0, "sigreg_loss": 1e4, "effective_rank": float("nan")})
    assert not caplog.records


def said(caplog, trainer) -> list[str]:
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        trainer.train()
    return [record.message for record in caplog.records if record.message.startswith("Step ")]


@pytest.mark.slow
def test_a_run_without_sigreg_collapses_and_is_told(tmp_path, caplog):
    quiet = {"eval_strategy": "no", "save_strategy": "no", "max_steps": 60, "warmup_steps": 5, "learning_rate": 0.02}
    messages = said(caplog, monitored(tmp_path / "a", model={"sigreg_weight": 0.0, "projector_norm": "none"}, **quiet))
    assert any("`sigreg_loss`" in message and "collapsed" in message for message in messages), messages
    caplog.clear()
    healthy = monitored(tmp_path / "b", model={"sigreg_weight": 0.5}, **quiet | {"learning_rate": 2e-3})
    assert said(caplog, healthy) == []


class Jump(TrainerCallback):
    """A learning rate that becomes far too large when the run has come to something."""

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step >= 25:
            for group in optimizer.param_groups:
                group["lr"] = 1.0


@pytest.mark.slow
def test_a_rate_that_is_too_large_diverges_and_is_told(tmp_path, caplog):
    trainer = monitored(
        tmp_path, eval_strategy="no", save_strategy="no", max_steps=45, learning_rate=5e-3,
        per_device_train_batch_size=64, model={"sigreg_weight": 0.5},
    )  # fmt: skip
    trainer.add_callback(Jump)
    messages = said(caplog, trainer)
    assert any("training diverges" in message for message in messages), [row["loss"] for row in rows(trainer)]
