import time

import torch

from lejepa_hf.training.log_window import LogWindow


def test_means_rates_and_a_new_beginning():
    window = LogWindow(torch.device("cpu"))
    assert window.is_empty
    window.add_losses(torch.tensor(1.0), torch.tensor(4.0), 8)
    window.add_losses(torch.tensor(3.0, requires_grad=True), torch.tensor(0.0), 8)
    time.sleep(0.1)
    window.add_waiting(0.05)
    found = window.measure()
    assert (found["prediction_loss"], found["sigreg_loss"]) == (2.0, 2.0)
    assert 50 < found["images_per_second"] < 160 and 0.2 < found["data_wait_fraction"] <= 0.5
    window.begin()
    assert window.is_empty


def test_time_of_something_else_is_left_out():
    window = LogWindow(torch.device("cpu"))
    window.add_losses(torch.tensor(1.0), torch.tensor(1.0), 8)
    time.sleep(0.2)
    slow = window.measure()["images_per_second"]
    window.leave_out(0.15)
    assert window.measure()["images_per_second"] > 2 * slow
