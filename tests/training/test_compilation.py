import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainer import losses, model_for, trainer_for
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset


class Images(Dataset):
    """Rows that need no `datasets`, which a machine that lends its GPU may not have."""

    def __init__(self, number: int, seed: int = 0):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"image": Image.fromarray(self.pixels[index])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["kept", "checkpointed"]
)
@pytest.mark.parametrize("family", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def test_one_graph_for_each_crop_size(tmp_path, tiny_vit, tiny_resnet, family, checkpointing):
    if family == "resnet" and checkpointing:
        pytest.skip("ResNet has no activation checkpointing")
    backbone = {"vit": {**tiny_vit, "num_hidden_layers": 4}, "resnet": tiny_resnet}[family]
    settings = {"gradient_checkpointing": checkpointing, "dataloader_num_workers": 0, "max_steps": 4}
    plain = trainer_for(tmp_path / "plain", model_for(backbone), Images(64), **settings)
    plain.train()
    torch._dynamo.reset()
    counters.clear()
    settings |= {"torch_compile": True, "torch_compile_backend": "aot_eager", "eval_strategy": "steps"}
    compiled = trainer_for(
        tmp_path / "compiled", model_for(backbone), Images(64), eval_dataset=Images(40, seed=1),
        eval_steps=2, monitor_images=20, **settings,
    )  # fmt: skip
    compiled.train()
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    expected = [loss for _, loss in losses(plain)]
    assert [loss for _, loss in losses(compiled)] == pytest.approx(expected, rel=1e-3)
    assert set(compiled.model.state_dict()) == set(plain.model.state_dict())


@pytest.mark.slow
def test_each_of_two_trainers_is_compiled_and_nothing_is_left_behind(tmp_path, tiny_vit):
    """The first one used to switch compilation off for all that follow in the process."""
    torch._dynamo.reset()
    settings = {"dataloader_num_workers": 0, "max_steps": 1, "save_strategy": "no"}
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    for given in (compiled, compiled, {}):
        filters = list(warnings.filters)
        trainer = trainer_for(tmp_path, model_for(tiny_vit), Images(64), **settings | given)
        plugin = trainer.accelerator.state.dynamo_plugin
        before = plugin.backend
        trainer.train()
        assert plugin.backend == before and warnings.filters == filters
        assert trainer.model_wrapped is trainer.model  # not compiled as a whole
        blocks = [module._compiled_call_impl for module in trainer.model.encoder.backbone.modules()]
        assert any(block is not None for block in blocks) == bool(given)


# Which views an operation falls on, and constants taken apart: both live on the host wherever the model is.
_ON_THE_HOST = {("photometric.py", "_apply"), ("epps_pulley_eager.py", "_two_parts")}


class Waits(TorchDispatchMode):
    """Finds what on an accelerator would wait for the device: values the host reads, shapes that depend on them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "masked_select"):
            stack = traceback.extract_stack()
            if not any((Path(frame.filename).name, frame.name) in _ON_THE_HOST for frame in stack):
                self.found.append("".join(traceback.format_list(stack[-4:-1])))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_step_never_waits_for_the_device(tmp_path, tiny_vit, tiny_resnet, family):
    backbone = {"vit": tiny_vit, "resnet": tiny_resnet}[family]
    found = []
    for steps in (2, 6):
        trainer = trainer_for(
            tmp_path / str(steps), model_for(backbone), Images(64), max_steps=steps, logging_steps=100,
            save_strategy="no", dataloader_num_workers=0, lr_scheduler_type="constant",
        )  # fmt: skip
        with Waits() as waits:
            trainer.train()
        found.append(waits.found)
    assert len(found[1]) == len(found[0]) < 5, found  # four steps more, and nothing read more


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_never_waits_on_cuda(tmp_path, tiny_vit):
    trainer = trainer_for(
        tmp_path, model_for(tiny_vit), Images(64), use_cpu=False, max_steps=8, logging_steps=100, save_strategy="no",
        dataloader_num_workers=0,
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


def test_the_position_table_is_interpolated_once_for_each_size(tiny_vit, monkeypatch):
    model = model_for({**tiny_vit, "num_hidden_layers": 4}).train()
    calls = []
    original = nn.functional.interpolate
    monkeypatch.setattr(nn.functional, "interpolate", lambda *a, **k: calls.append(1) or original(*a, **k))
    model(torch.randn(4, 2, 3, 16, 16), torch.randn(4, 3, 3, 8, 8), step=0).loss.backward()
    assert len(calls) <= 2
