from pathlib import Path

import pytest
import yaml

from lejepa_hf.system import packaged_recipes as module
from lejepa_hf.system.packaged_recipes import find_packaged, packaged_recipes

ROOT = Path(__file__).parents[2]


def test_every_recipe_of_the_repository_has_a_name():
    known = packaged_recipes()
    files = {path.relative_to(ROOT / "recipes").as_posix() for path in ROOT.glob("recipes/**/*.yaml")}
    assert {f"{name}.yaml" for name in known} == files
    assert all(path.is_file() for path in known.values())
    assert "digits/resnet_tiny" in known and "accelerate/ddp" in known


@pytest.mark.parametrize("given", ["digits/resnet_tiny", "recipes/digits/resnet_tiny.yaml"])
@pytest.mark.parametrize("kind", [str, Path])
def test_names_and_paths_of_a_checkout_find_it_in_any_folder(given, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(find_packaged(kind(given)).read_text(encoding="utf-8"))
    assert content["dataset"] == "digits" and content["backbone_config"]["model_type"] == "resnet"


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("digits/resnet_tinny", ": digits/resnet_tiny"),
        ("recipes/digits/resnet_tinny.yaml", ": recipes/digits/resnet_tiny.yaml"),
        ("imagenet1k/vit", "imagenet1k/vit_"),
        ("???", ", digits/resnet_tiny, "),
        ("../recipes/digits/resnet_tiny", "digits/resnet_tiny"),
    ],
)
def test_unknown_names(given, nearest):
    with pytest.raises(ValueError, match=r"No recipe .* here or in the package\. Nearest there: ") as error:
        find_packaged(given)
    assert nearest in str(error.value) and given in str(error.value)


def test_a_wheel_has_them_beside_the_module(tmp_path, monkeypatch):
    """tests/test_packages.py builds one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").touch()
    monkeypatch.setattr(module, "_IN_WHEELS", tmp_path)
    assert packaged_recipes() == {"mine/own": tmp_path / "mine" / "own.yaml"}
