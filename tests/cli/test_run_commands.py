import json
from pathlib import Path

import pytest
import torch
import yaml
from error_line import one_line

from lejepa_hf.cli import main


@pytest.fixture
def measurable(run, tiny_resnet) -> Path:
    """A run whose images and views are known."""
    recipe = {"dataset": "digits", "backbone_config": tiny_resnet, "bf16": not torch.accelerator.is_available()}
    recipe |= {"global_crop_size": 16, "local_crop_size": 12, "num_local_views": 1, "blur_kernel_size": 5}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run


def test_statistics(measurable, capsys):
    assert main(["statistics", str(measurable), "--images", "40"]) == 0
    views, spectrum, worst, picture = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in views.splitlines()] == ["view", "0", "1", "2", "normal"]
    assert views.endswith("for 40 images")
    assert " of 8, " in spectrum and len(worst.splitlines()) == 6
    assert picture == f"{measurable / 'pictures' / 'gaussianity.png'}\n"
    assert (measurable / "pictures" / "gaussianity.png").stat().st_size > 0
    numbers = json.loads((measurable / "statistics.json").read_text(encoding="utf-8"))
    assert numbers["num_images"] == 40 and 0 < numbers["effective_rank"] <= 8


@pytest.mark.parametrize(
    ("missing", "images", "message"),
    [
        (None, "1", "images must be at least 2, got 1"),
        (None, "-3", "images must be at least 2, got -3"),
        ("recipe.yaml", "9", "No recipe"),
        ("pretraining/config.json", "9", "is not a finished run: it has no pretraining/"),
    ],
)
def test_statistics_refuses_in_one_line(measurable, capsys, missing, images, message):
    if missing is not None:
        (measurable / missing).unlink()
    assert main(["statistics", str(measurable), "--images", images]) == 2
    captured = capsys.readouterr()
    assert message in one_line(captured.err)
    assert captured.out == ""
    assert not (measurable / "pictures").exists()


def test_recipes_are_listed_and_found(capsys):
    assert main(["recipes"]) == 0
    assert {"digits/resnet_tiny", "imagenet1k/vit_l14"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line
    }
    assert main(["recipes", "accelerate/ddp"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert "distributed_type: MULTI_GPU" in path.read_text(encoding="utf-8")
    assert main(["recipes", "accelerate/dpd"]) == 2
    assert "Nearest there: accelerate/ddp" in one_line(capsys.readouterr().err)
    assert main(["recipes", "show", "digits/resnet_tiny"]) == 0
    shown = capsys.readouterr().out
    assert shown == Path("recipes/digits/resnet_tiny.yaml").read_text(encoding="utf-8")
    assert main(["recipes", "print", "digits/resnet_tiny"]) == 2
    assert "takes a NAME or `show NAME`" in one_line(capsys.readouterr().err)
