import time

import pytest
import torch
from monitored_run import monitored, rows

from lejepa_hf.training.measuring_trainer import LogWindow


@pytest.mark.slow
def test_an_evaluation_does_not_slow_the_speed_of_training(tmp_path):
    trainer = monitored(tmp_path, monitors=[], label_column=None, max_steps=3)
    trainer.model.register_forward_pre_hook(lambda model, _: None if model.training else time.sleep(0.5))
    trainer.train()
    (evaluation, *_) = rows(trainer, "eval_loss")
    assert evaluation["step"] == 2 and evaluation["eval_runtime"] > 1.5  # three batches
    after = next(row for row in rows(trainer) if row["step"] == 3)
    assert after["images_per_second"] > 8 / 1.5  # the eight images of the step, without the evaluation before it


@pytest.mark.parametrize("given", [True, pytest.param("auto", marks=pytest.mark.slow)])
def test_resuming_without_a_path_is_from_the_newest_checkpoint(tmp_path, given):
    again = monitored(tmp_path, eval_strategy="no", max_steps=4)
    with pytest.raises(ValueError, match=f"`resume_from_checkpoint` is {given}, but .* has no checkpoint"):
        again.train(resume_from_checkpoint=given)
    monitored(tmp_path, eval_strategy="no", max_steps=3).train()
    again.train(resume_from_checkpoint=given)
    assert [row["step"] for row in rows(again)] == [1, 2, 3, 4]


def test_means_and_rates():
    window = LogWindow(torch.device("cpu"))
    window.add(torch.tensor(1.0), torch.tensor(4.0), 8)
    window.add(torch.tensor(3.0, requires_grad=True), torch.tensor(0.0), 8)
    time.sleep(0.1)
    window.waited += 0.05
    found = window.measure()
    assert (found["prediction_loss"], found["sigreg_loss"]) == (2.0, 2.0)
    assert 50 < found["images_per_second"] < 160 and 0.2 < found["data_wait_fraction"] <= 0.5


def test_time_of_something_else_is_left_out():
    window = LogWindow(torch.device("cpu"))
    window.add(torch.tensor(1.0), torch.tensor(1.0), 8)
    time.sleep(0.2)
    slow = window.measure()["images_per_second"]
    window.start += 0.15
    assert window.measure()["images_per_second"] > 2 * slow
