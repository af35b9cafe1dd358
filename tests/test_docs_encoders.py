"""Every Python block of docs/encoders.md runs as it stands, where this package is not installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stranger import NOT_INSTALLED

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.onnx_export import export_onnx

PAGE = (Path(__file__).parent.parent / "docs" / "encoders.md").read_text()
BLOCKS = [
    (section.partition("\n")[0], block)
    for section in PAGE.split("\n## ")
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
]

RUN_ALL = f"""{NOT_INSTALLED}
import json, torch
torch.set_num_threads(1)
for title, block in json.load(sys.stdin):
    print("##", title, flush=True)
    exec(compile(block, title, "exec"), {{"__name__": "__main__"}})
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder that the page's blocks run in, with small encoders under the names they use."""
    pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are an extra")
    resnet = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16, 32]}
    backbones = {
        "digits-resnet_tiny": {**resnet, "depths": [1, 1, 1]},
        "timm": {"model_type": "timm_wrapper", "architecture": "resnet18"},
    }
    folder = tmp_path_factory.mktemp("page")
    for name, backbone in backbones.items():
        torch.manual_seed(0)
        model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[8]))
        export_encoder(model, folder / "runs" / name / "encoder", build_processor(24, 1.0))
    export_onnx(folder / "runs" / "digits-resnet_tiny" / "encoder")
    return folder


def test_python_blocks(runs):
    assert len(BLOCKS) == PAGE.count("```python") == 7
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(BLOCKS),
        cwd=runs,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout, done.stderr[-4000:])
    printed = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", done.stdout, re.MULTILINE))
    assert printed["Embed images"] == "torch.Size([1, 32]) True\n"
    assert float(printed["Nearest neighbours"].split()[1]) > 0.5
    assert printed["Feature maps"] == "[(1, 16, 8, 8), (1, 32, 4, 4)]\n"
    assert printed["timm"].startswith("torch.Size([1, 512]) [(1, 64, 32, 32), ")
    assert printed["ONNX"] == "(2, 32)\n"
