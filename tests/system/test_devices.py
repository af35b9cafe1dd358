import torch

from lejepa_hf.system.devices import cores_of_this_process, default_device, threads_for


def test_something_can_be_computed_there():
    assert torch.ones(2, device=default_device()).sum() == 2
    assert (default_device().type == "cpu") == (not torch.accelerator.is_available())


def test_small_steps_get_one_thread():
    torch.set_num_threads(2)
    with threads_for(1000):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_for(2**30):
        assert torch.get_num_threads() == 2


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert cores_of_this_process() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cores_of_this_process() == 2
