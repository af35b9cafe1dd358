"""The Python blocks of docs/features.md run as they stand, on a small run and its embeddings."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.hub.export import build_processor

PAGE = (Path(__file__).parent.parent / "docs" / "features.md").read_text()


def test_python_blocks(tmp_path, tiny_vit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8]))
    export_encoder(model, tmp_path / "runs" / "digits" / "encoder", build_processor(16))
    Image.new("RGB", (30, 20), "orange").save("photo.jpg")
    command = re.search(r"^lejepa (embed digits .*--pooling patches)", PAGE, re.MULTILINE)[1].split()
    assert main(command) == 0
    Path("patches.parquet").rename("embeddings.parquet")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join([*blocks, "print([tuple(found.shape) for found in maps], embeddings.features['label'].names)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[(1, 32, 4, 4), (1, 32, 4, 4)] ['0', '1'" in done.stdout
