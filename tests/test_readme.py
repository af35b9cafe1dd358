"""README's Python blocks run as they stand, and its two commands are what .ci/run takes."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks(tmp_path):
    use, train = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # The first one reads the main job's encoder; here it reads the one that the second block makes.
    blocks = train + use.replace("runs/digits-resnet_tiny/encoder", "runs/python/encoder") + "print(embedding.shape)"
    done = subprocess.run([sys.executable, "-c", blocks], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 32])" in done.stdout


def test_two_commands():
    block = re.search(r"<!-- commands -->\n```bash\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()
    assert block == [
        "pip install -e . && accelerate launch train.py recipes/digits/resnet_tiny.yaml",
        'pip install -e ".[test]" && pytest -n auto',
    ]


def test_named_files_exist():
    for path in re.findall(r"\b(?:recipes|docs|benchmarks)/[\w./-]+\.\w+", README):
        assert (ROOT / path).is_file(), path
