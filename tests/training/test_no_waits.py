"""
A step that reads a value of the device waits until the device has finished everything before it. No GPU is needed to
find such reads: of two runs of other lengths the longer one must not read more.
"""

import traceback
from pathlib import Path

import pytest
import torch
from tiny_trainer import Images, LabelledImages, model_for, trainer_for
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Random numbers of views, which views an operation falls on, and constants taken apart live on the host wherever the
# model is. The guard reads what has arrived there, on an accelerator a step later.
_ON_THE_HOST = {
    ("photometric.py", "photometric"),
    ("epps_pulley_eager.py", "_two_parts"),
    ("finite_guard.py", "check"),
}
_READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2")
_COPIES = ("cpu", "tolist", "numpy", "item", "__array__")


class _Methods(TorchFunctionMode):
    """Calls that copy to the host; of a tensor on the CPU nothing of them reaches the dispatcher."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _COPIES or (name == "to" and any(isinstance(given, str) and given == "cpu" for given in args[1:])):
            _note(self.found)
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Finds what on an accelerator would wait for the device: values the host reads, shapes that depend on them."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self._methods = _Methods(self.found)

    def __enter__(self):
        self._methods.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in _READS:
            _note(self.found)
        return func(*args, **(kwargs or {}))


def _note(found: list[str]) -> None:
    stack = traceback.extract_stack()[:-2]
    if not any((Path(frame.filename).name, frame.name) in _ON_THE_HOST for frame in stack):
        found.append("".join(traceback.format_list(stack[-3:])))


@pytest.fixture
def ten_classes(monkeypatch):
    """Plain rows do not say how many classes they have, and the run's own count of them needs `datasets`."""
    monkeypatch.setattr("lejepa_hf.trainer.count_classes", lambda dataset, label_column: 10)


def test_what_waits_is_found():
    values, waits = torch.arange(4.0), Waits()
    with waits:
        values.sum().add(1)
        assert waits.found == []
        for number, read in enumerate(
            [lambda: values[0].item(), lambda: bool(values[0]), values.tolist, values.cpu, lambda: values.to("cpu"),
             lambda: values[values > 1], values.numpy, values.unique], 1,
        ):  # fmt: skip
            read()
            assert len(waits.found) >= number, read


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("exact_accumulation", [False, True])
def test_a_step_never_waits_for_the_device(tmp_path, tiny_vit, tiny_resnet, ten_classes, family, exact_accumulation):
    """With the online probe, all monitors, the average of the weights, bf16 and exact accumulation."""
    backbone = {"vit": tiny_vit, "resnet": tiny_resnet}[family]
    found = []
    for steps in (2, 6):
        trainer = trainer_for(
            tmp_path / str(steps), model_for(backbone), LabelledImages(128), label_column="label",
            max_steps=steps, logging_steps=100, save_strategy="no", dataloader_num_workers=0,
            lr_scheduler_type="constant", bf16=True, ema_decay=0.9, gradient_accumulation_steps=2,
            exact_accumulation=exact_accumulation,
        )  # fmt: skip
        assert any(type(callback).__name__ == "OnlineProbe" for callback in trainer.callback_handler.callbacks)
        with Waits() as waits:
            trainer.train()
        found.append(waits.found)
    assert len(found[1]) == len(found[0]) < 12, found  # four steps more, and nothing read more


@pytest.mark.slow
def test_an_evaluation_waits_as_often_for_more_batches(tmp_path, tiny_vit, ten_classes):
    """Views, the online probe and k-NN: the host reads results, not batches."""
    found = []
    for number in (32, 64):
        trainer = trainer_for(
            tmp_path / str(number), model_for(tiny_vit), LabelledImages(256), LabelledImages(number, seed=1),
            label_column="label", max_steps=1, save_strategy="no", dataloader_num_workers=0, monitor_images=64,
        )  # fmt: skip
        trainer.train()
        trainer.evaluate()  # cuts and keeps its images
        with Waits() as waits:
            metrics = trainer.evaluate()
        assert {"eval_knn_top1", "eval_online_probe_top1"} <= set(metrics)
        found.append(waits.found)
    assert len(found[0]) == len(found[1]) < 40, found


def test_weights_and_moments_stay_in_fp32_under_bf16(tmp_path, tiny_vit):
    trainer = trainer_for(tmp_path, model_for(tiny_vit), Images(16), max_steps=1, bf16=True, save_strategy="no")
    trainer.train()
    optimizer = trainer.optimizer.optimizer  # within Accelerate's
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in (*trainer.model.parameters(), *states)} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_never_waits_on_cuda(tmp_path, tiny_vit):
    trainer = trainer_for(
        tmp_path, model_for(tiny_vit), Images(64), use_cpu=False, max_steps=8, logging_steps=100, save_strategy="no",
        dataloader_num_workers=0, ema_decay=0.9,
    )  # fmt: skip
    step = trainer.training_step

    def strict(*args, **kwargs):
        warm = trainer.state.global_step > 2  # kernels are compiled and tables made in the first steps
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            return step(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer.training_step = strict
    trainer.train()
