"""docs/backbones.md is what a run of the whole matrix wrote, of the architectures that are in it now."""

import re
from pathlib import Path

from architectures import ARCHITECTURES

PAGE = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text(encoding="utf-8")
TABLE, REFUSED = PAGE.split("## What cannot be trained, and why")
FAMILIES = {"ResNet", "ViT", "Swin", "MaxViT", "ConvNeXt", "EfficientNet", "LeViT", "Inception-NeXt"}  # of the paper


def test_every_architecture_is_told_of():
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in TABLE.splitlines() if line[:1] == "|"}
    assert {(a.family, a.name) for a in ARCHITECTURES if a.refused is None} == rows - {
        ("family", "architecture"),
        ("---", "---"),
    }
    assert set(re.findall(r"^- (.*?): ", REFUSED, re.MULTILINE)) == {a.name for a in ARCHITECTURES if a.refused}
    assert "failed in this run" not in PAGE


def test_the_families_of_the_paper_and_more():
    trained = [a for a in ARCHITECTURES if a.refused is None]
    assert len(trained) >= 60 and len({a.name for a in ARCHITECTURES}) == len(ARCHITECTURES)
    assert {a.family for a in trained} >= FAMILIES
    assert {a.family for a in trained if a.in_sample} >= FAMILIES, "the default run has each of them"
