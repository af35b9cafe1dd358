import pytest

from lejepa_hf.evaluation.dataset_presets import PRESETS, find_preset


def test_those_of_the_paper_are_there():
    wanted = (
        "imagenet-1k imagenette imagenet-100 food101 cifar10 cifar100 stl10 flowers102 dtd fgvc-aircraft "
        "stanford-cars oxford-pets galaxy10 digits imagenet-v2 imagenet-a imagenet-r imagenet-sketch"
    )
    assert set(PRESETS) == set(wanted.split()) | {"ade20k", "voc2012"}


@pytest.mark.parametrize("name", ["ade20k", "voc2012"])
def test_those_of_masks_name_their_columns(name):
    preset = find_preset(name)
    assert preset.image_column == "image" and preset.label_column in ("mask", "annotation")
    assert 255 in preset.ignore_labels
    assert (0 in preset.ignore_labels) == (name == "ade20k")


@pytest.mark.parametrize("name", ["imagenet-1k", "ImageNet-1k", "imagenet_1k"])
def test_by_any_spelling(name):
    found = find_preset(name)
    assert (found.dataset, found.train_split, found.eval_split) == ("ILSVRC/imagenet-1k", "train", "validation")


@pytest.mark.parametrize("name", ["me/pictures", "pictures/*.parquet", "a.tar", "https://x.org/a-{000..9}.tar"])
def test_other_names_are_those_of_other_things(name):
    assert find_preset(name) is None


def test_splits_and_files_of_a_preset_are_those_of_the_benchmark():
    assert find_preset("fgvc-aircraft").train_split == "train+validation"
    assert set(find_preset("stanford-cars").data_files) == {"train", "test"}
    assert find_preset("galaxy10").label_column == "label"


def test_a_folder_goes_before_a_complaint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert find_preset("photos") is None


def test_an_unknown_one_names_the_nearest():
    with pytest.raises(ValueError, match=r"'fod101' is not a preset.*Did you mean 'food101'\? Presets are digits,"):
        find_preset("fod101")
    with pytest.raises(ValueError, match=r"'xyzzy' is not a preset.* Presets are digits, imagenet-1k"):
        find_preset("xyzzy")
