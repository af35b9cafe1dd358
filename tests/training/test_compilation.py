import warnings

import pytest
import torch
from tiny_trainer import Images, losses, model_for, trainer_for
from torch import nn
from torch._dynamo.utils import counters


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


def test_the_position_table_is_interpolated_once_for_each_size(tiny_vit, monkeypatch):
    model = model_for({**tiny_vit, "num_hidden_layers": 4}).train()
    calls = []
    original = nn.functional.interpolate
    monkeypatch.setattr(nn.functional, "interpolate", lambda *a, **k: calls.append(1) or original(*a, **k))
    model(torch.randn(4, 2, 3, 16, 16), torch.randn(4, 3, 3, 8, 8), step=0).loss.backward()
    assert len(calls) <= 2
