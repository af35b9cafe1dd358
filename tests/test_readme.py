"""README's two commands are what .ci/run takes, and what it names is there; its blocks are run in test_docs_blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_two_commands():
    block = re.search(r"<!-- commands -->\n```bash\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()
    assert block == [
        "pip install -e . && accelerate launch train.py recipes/digits/resnet_tiny.yaml",
        'pip install -e ".[test]" && pytest -n auto',
    ]


def test_named_files_exist():
    for path in re.findall(r"\b(?:recipes|docs|benchmarks|notebooks)/[\w./-]+\.\w+", README):
        assert (ROOT / path).is_file(), path
