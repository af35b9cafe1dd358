"""Cards of runs that were made: what they say can be read back, and is of the recipe that lies in recipes/."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load

from lejepa_hf.runs.recipes import parse_recipe

ROOT = Path(__file__).parent.parent
CARDS = sorted((ROOT / "model_cards").glob("*.md"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_card(path, tmp_path):
    card = ModelCard.load(path)
    assert metadata_load(path) == card.data.to_dict()
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    # The encoder's column of the table.
    rows = re.findall(r"^\| (\w+ \w+) +\| ([\d.]+) ± [\d.]+ +\|", card.text, re.MULTILINE)
    cells = {f"eval_{name.replace(' ', '_')}": float(cell) for name, cell in rows}
    assert cells.keys() == found.keys() and len(cells) == (12 if path.stem.startswith("digits") else 6)
    for name, value in found.items():
        assert abs(cells[name] - 100 * value) < 0.051
    for link in re.findall(r"\]\((?!https://)(.*?)\)", card.text):
        assert (path.parent / link).exists(), link
    assert "None" not in card.text and "/tmp" not in card.text and "/home" not in card.text
    assert re.search(r"^- commit [0-9a-f]{7,}$", card.text, re.MULTILINE)  # of the code, nothing changed in it


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_recipe_is_that_of_this_repository(path, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        re.search(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)[1], encoding="utf-8"
    )
    told = parse_recipe(tmp_path / "recipe.yaml")
    here = parse_recipe(ROOT / "recipes" / f"{path.stem.replace('-', '/', 1)}.yaml")
    assert (told.model, told.data) == (here.model, here.data)
    for key in ("learning_rate", "max_steps", "per_device_train_batch_size", "weight_decay"):
        assert getattr(told.training, key) == getattr(here.training, key)
