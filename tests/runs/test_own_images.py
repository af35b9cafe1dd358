from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from lejepa_hf.cli import main
from lejepa_hf.data.sources import load_source
from lejepa_hf.runs.own_images import facts_of, read_images, read_machine, share_to_hold_out, with_recipe
from lejepa_hf.runs.pretraining import main as train
from lejepa_hf.runs.recipe_choice import ImageFacts
from lejepa_hf.runs.recipe_sources import training_source
from lejepa_hf.runs.recipes import parse_recipe

CPU = "--use_cpu"


def photographs(folder: Path, *classes: str, number: int = 3, size: tuple[int, int] = (48, 40)) -> Path:
    for place in classes or ("",):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for red in range(number):
            Image.new("RGB", size, (red, 0, 0)).save(folder / place / f"{red}.png")
    return folder


def test_facts_of_classes_with_a_held_out_split(tmp_path):
    classes = [f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")]
    folder = photographs(tmp_path, *classes)
    Image.new("RGBA", (20, 90)).save(folder / "train/cat/small.png")
    (folder / "train/cat/broken.png").write_bytes(b"no image")
    assert read_images(str(folder)) == ImageFacts(8, 40, 20, channels=4, classes=2, held_out="test")
    assert read_images(str(folder), {"eval_split": "test"}).held_out is None, "it is chosen already"
    assert read_images(str(folder), {"train_split": "test"}).number == 6
    photographs(tmp_path, "val/cat", "val/dog")
    assert read_images(str(folder), {"train_split": "train+validation[:2]"}).held_out == "test"
    assert read_images(str(folder)).held_out == "validation", "and the test images stay for `lejepa evaluate`"


def test_facts_without_labels(tmp_path):
    photographs(tmp_path, "train", "test", size=(300, 400))
    Image.new("L", (500, 500)).save(tmp_path / "train/grey.png")
    assert read_images(str(tmp_path)) == ImageFacts(4, 300, 300, channels=3, classes=None, held_out="test")


def test_facts_of_files_and_saved_datasets(tmp_path):
    rows = Dataset.from_dict({"image": sorted(map(str, photographs(tmp_path / "p").iterdir())), "kind": [0, 1, 1]})
    rows = rows.cast_column("image", __import__("datasets").Image()).class_encode_column("kind")
    rows.to_parquet(tmp_path / "a.parquet")
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert read_images(str(tmp_path / "a.parquet")) == ImageFacts(3, 40, 40, 3, classes=2, held_out=None)
    assert read_images(str(tmp_path / "saved")) == ImageFacts(3, 40, 40, 3, classes=2, held_out="test")


def test_a_share_is_held_out_where_there_is_no_split(tmp_path):
    folder = str(photographs(tmp_path / "flat", number=41))
    assert read_images(folder).held_out == "20%"
    assert read_images(folder, {"train_split": "train[:39]"}).held_out is None, "too few"
    assert read_images(folder, {"mixture": [{"dataset": folder}]}).held_out is None
    alone = [str(number) for number in range(40)]
    assert read_images(str(photographs(tmp_path / "alone", *alone, number=1))).held_out is None, "one of each class"
    stack = [Image.new("L", (9, 8), grey) for grey in range(50)]
    (tmp_path / "stack").mkdir()
    stack[0].save(tmp_path / "stack" / "a.tif", save_all=True, append_images=stack[1:])
    assert read_images(str(tmp_path / "stack"), {"pages": "images"}).held_out is None, "parts of one file"


def test_images_that_cannot_be_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 8, 13)))
    with pytest.raises(ValueError, match="none of the first images can be opened: The image has 13 channels"):
        read_images(str(tmp_path))


def test_facts_of_values_with_a_range_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    np.savez(tmp_path / "a.npz", images=np.full((5, 9, 8), 700.0, np.float32), labels=np.arange(5) % 2)
    with pytest.raises(ValueError, match="none of the first images can be opened: .* set `pixel_range"):
        read_images(str(tmp_path / "a.npz"))
    facts = read_images(str(tmp_path / "a.npz"), {"pixel_range": [0.0, 1000.0], "eval_split": "10%"})
    assert (facts.number, facts.median_side) == (5, 8)


def test_windows_are_the_images_whose_sizes_are_read(tmp_path):
    facts = read_images(str(photographs(tmp_path)), {"window_size": 20})
    assert (facts.number, facts.median_side) == (3 * 2 * 2, 20)


def test_facts_of_a_mixture(tmp_path):
    folder = str(photographs(tmp_path))
    recipe = parse_recipe("folder/small_cpu", ["--mixture", f"[{{dataset: {folder}}}, {{dataset: digits}}]", CPU])
    assert facts_of(training_source(recipe.data)).smallest_side == 8


def test_this_machine():
    assert read_machine(use_cpu=True).device == "cpu" and read_machine().cores >= 1


def test_a_recipe_stays_first(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").touch()
    photographs(tmp_path / "digits" / "resnet_tiny")
    monkeypatch.chdir(tmp_path)
    for given in ("mine.yaml", "digits/resnet_tiny", "recipes/folder/vit_s16.yaml"):
        assert with_recipe([given, "--seed", "1"]) == [given, "--seed", "1"]


@pytest.mark.parametrize("given", ["digits", "./digits", "./digits/resnet_tiny", "digits/resnet_tiny/"])
def test_a_folder_with_the_name_of_a_recipe_or_a_dataset(given, tmp_path, monkeypatch):
    photographs(tmp_path / "digits" / "resnet_tiny")
    monkeypatch.chdir(tmp_path)
    name, _, folder, *_ = with_recipe([given, CPU])
    assert name == "folder/small_cpu" and load_source(folder).num_images == 3


def test_images_get_the_recipe_that_fits(tmp_path, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    small = str(photographs(tmp_path / "small", *(f"{split}/{name}" for split in ("train", "test") for name in "ab")))
    chosen, batch = ["folder/small_cpu", "--dataset", small], "--per_device_train_batch_size"
    expected = [*chosen, "--eval_split", "test", batch, "4", CPU, "--seed", "1"]
    assert with_recipe([small, CPU, "--seed", "1"]) == expected
    said = [record.message for record in caplog.records if "column" not in record.message]
    assert said[0].startswith(f"{small}: 6 images, shorter side 40 pixels (smallest 40), RGB, 2 classes, held-out ")
    assert said[1].startswith("Recipe folder/small_cpu: most images have at most 64 pixels") and len(said) == 3
    assert said[2] == "Batches have 4 images instead of 128: there are only 6."
    assert with_recipe([small, CPU, "--eval-split=null"]) == [*chosen, batch, "4", CPU, "--eval-split=null"]
    large = str(photographs(tmp_path / "large", size=(300, 200)))
    assert with_recipe([large, CPU]) == ["folder/laptop", "--dataset", large, batch, "2", CPU]
    many = str(photographs(tmp_path / "many", number=128))
    share = ["--eval_split", "20%", batch, "64"]
    assert with_recipe([many, CPU]) == ["folder/small_cpu", "--dataset", many, *share, CPU], "102 are left"
    assert (
        "RGB, no labels, 20% held out; no GPU" in caplog.text and "26 of 128 images (20.3 %) are held" in caplog.text
    )
    none = [CPU, "--eval_split", "null"]
    assert with_recipe([many, *none]) == ["folder/small_cpu", "--dataset", many, *none]
    name, *pairs = with_recipe([large, CPU, "--dataset", "digits"])
    assert parse_recipe(name, pairs).data.dataset == "digits", "the command line wins"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("empty", "`dataset` 'empty' holds no images: found nothing"),
        ("notes", "`dataset` 'notes' holds no images: found 1 .txt"),
        ("./photoes", "`dataset` './photoes': no such folder. '.' holds photos"),
        ("photos/one/two", "no such folder"),
        ("photoes/", "'photoes/': no such folder. '.' holds photos"),
        ("a.parquet", "`dataset` 'a.parquet': no such file"),
        ("missing.yaml", "No recipe 'missing.yaml' here or in the package"),
        ("digits/resnet_tinny", "No recipe 'digits/resnet_tinny' here or in the package. Nearest there: digits/"),
        ("digits", "Nearest there: digits/"),
        ("folder", "Nearest there: folder/"),
        ("photos/0.png", "photos/0.png is not a recipe, which is a YAML file: of images, name the folder"),
        ("--dataset", "The first argument must be a recipe or images, got '--dataset'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_neither_a_recipe_nor_images(given, said, command, tmp_path, monkeypatch, capsys):
    for name in ("empty", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    photographs(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    if command == "plan" and given.startswith("--"):
        return  # argparse's own error
    arguments = [given, CPU, "--output_dir", "run"]
    assert (train(arguments) if command == "train" else main(["plan", *arguments])) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_trains_without_a_recipe(tmp_path):
    classes = [f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")]
    folder, run = str(photographs(tmp_path / "photos", *classes, number=8)), tmp_path / "run"
    tiny = "{model_type: resnet, layer_type: basic, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1]}"
    arguments = [CPU, "--max-steps", "2", "--per_device_train_batch_size", "8", "--backbone_config", tiny]
    arguments += ["--projector_dims", "16", "8", "--eval_protocols", "knn", "--dataloader_num_workers", "0"]
    assert train([folder, "--output_dir", str(run), *arguments]) == 0
    recipe = parse_recipe(run / "recipe.yaml")
    assert (recipe.data.dataset, recipe.data.eval_split, recipe.training.max_steps) == (folder, "test", 2)
    assert (recipe.data.global_crop_size, recipe.data.local_crop_size) == (32, 24), "of folder/small_cpu"
    assert "eval_knn_top1" in (run / "results.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "share"), [(4_999, "20%"), (5_000, "10%"), (10_000, "5%"), (None, "5%")])
def test_smaller_sets_hold_out_a_larger_share(number, share):
    assert share_to_hold_out(number) == share
