"""
Any backbone in, a plain encoder out: each architecture takes two optimiser steps at two crop sizes, is exported, and
gives the same embeddings where this package cannot be imported.

A sample runs by default, the whole matrix with `pytest -m "slow or not slow" tests/test_backbone_matrix.py`; with
`--backbone-table docs/backbones.md` the run writes the table of what passed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from safetensors.torch import load_file, save_file
from stranger import NOT_INSTALLED

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.model.architecture import num_channels
from lejepa_hf.model.tracing import accepted_crop_sizes

IMAGES, TOLERANCE = 4, 1e-5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # a GPU trains in bf16; exports are compared on the CPU

# One process for all exports, in which this package cannot be imported.
STRANGER = (
    NOT_INSTALLED
    + """
import inspect
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
torch.set_num_threads(1)
for folder in map(str.rstrip, sys.stdin):
    try:
        encoder, found = AutoModel.from_pretrained(folder).eval(), {}
        # Loaded weights lie in the file's memory, where some processors round differently: at addresses that are not
        # aligned. Networks with batch norm over few values enlarge that; copies are compared.
        for tensor in (*encoder.parameters(), *encoder.buffers()):
            tensor.data = tensor.data.clone()
        flag = "interpolate_pos_encoding"
        takes = {flag: True} if flag in inspect.signature(encoder.forward).parameters else {}
        for size, pixels in load_file(folder + "/../pixels.safetensors").items():
            with torch.no_grad():
                outputs = encoder(pixels, **takes)
            if encoder.config.embedding_pooling == "pooler":
                found[size] = outputs.pooler_output.flatten(1)
            else:
                states = getattr(outputs, "last_hidden_state", None)
                states = outputs.feature_maps[-1] if states is None else states
                tokens = states if states.ndim == 3 else states.flatten(2).mT
                found[size] = tokens[:, 0] if encoder.config.embedding_pooling == "cls" else tokens.mean(1)
        save_file({size: value.contiguous() for size, value in found.items()}, folder + "/../found.safetensors")
        print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[:1], flush=True)
"""
)


@pytest.fixture(scope="module")
def stranger():
    command = [sys.executable, "-I", "-c", STRANGER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:

        def embed(folder: Path) -> dict[str, torch.Tensor]:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            assert answer == "done", answer
            return load_file(folder.parent / "found.safetensors")

        yield embed
        process.stdin.close()


def train_two_steps(model: LeJEPAForPreTraining, sizes: list[int]) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None  # the statistics of these steps alone, as after many: with others signals vanish
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    channels = num_channels(model.config.backbone_config)
    for step in range(2):
        views = [torch.randn(IMAGES // 2, 2, channels, size, size, device=DEVICE) for size in sizes]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            loss = model.train()(*views, step=step).loss
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.encoder.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, f"{name} has no gradient"
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        optimizer.step()


def marks(architecture: Architecture) -> list:
    return [] if architecture.in_sample else [pytest.mark.slow]


@pytest.mark.parametrize("architecture", [pytest.param(a, id=a.name, marks=marks(a)) for a in ARCHITECTURES])
def test_in_and_out(architecture, stranger, tmp_path, record_property):
    torch.manual_seed(0)
    row = {"name": architecture.name, "family": architecture.family}
    config = {"backbone_config": architecture.config, "projector_dims": [32, 16], "num_slices": 16}
    if architecture.refused is not None:
        with pytest.raises((ValueError, ImportError), match=architecture.refused) as refusal:
            LeJEPAForPreTraining(LeJEPAConfig(**config))
        record_property("backbone", json.dumps(row | {"reason": str(refusal.value).splitlines()[0]}))
        return
    model = LeJEPAForPreTraining(LeJEPAConfig(**config)).to(DEVICE)
    asked = dict(zip(("global_crop_size", "local_crop_size"), architecture.sizes, strict=True))
    sizes = list(accepted_crop_sizes(model.config.backbone_config, asked).values())
    train_two_steps(model, sizes)
    model.eval().cpu()
    pixels = {str(size): torch.randn(2, num_channels(model.config.backbone_config), size, size) for size in set(sizes)}
    save_file(pixels, tmp_path / "pixels.safetensors")
    found = stranger(export_encoder(model, tmp_path / "encoder", build_processor(sizes[0])))
    row |= {"pooling": model.encoder.pooling, "dim": model.encoder.embedding_dim, "asked": list(architecture.sizes)}
    row |= {"sizes": sizes, "difference": 0.0}
    for size, value in pixels.items():
        with torch.no_grad():
            expected = model.encoder(value).pooler_output
        assert expected.std(0).mean() > 0, "images are told apart"
        torch.testing.assert_close(found[size], expected, atol=TOLERANCE, rtol=TOLERANCE)
        row["difference"] = max(row["difference"], (found[size] - expected).abs().max().item())
    record_property("backbone", json.dumps(row))
