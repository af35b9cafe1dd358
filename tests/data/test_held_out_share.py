import pickle
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from images_in_groups import digits_with, touch_images
from PIL import Image

from lejepa_hf.data.held_out_share import choose_rows, share_of, split_off
from lejepa_hf.data.sources import load_source


def paths_of(source) -> set[str]:
    return {row["image"]["path"] for row in source.dataset}


@pytest.mark.parametrize(
    ("split", "share"),
    [
        ("10%", 0.1), ("10 %", 0.1), (" 2.5%", 0.025), (".5%", 0.005), ("50%", 0.5), ("test", None), (None, None),
        ("train[:10%]", None), ("train[90%:]+test", None), ("train+validation", None),
    ],
)  # fmt: skip
def test_what_a_share_is(split, share):
    assert share_of(split) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("split", ["0%", "100%", "60%", "-5%", "x%", "%", "0.1", "1", "10%%", "test%"])
def test_what_a_share_is_not(split):
    message = f"`eval_split` {split!r} is neither a split nor a share: write a share of the training images as '10%'"
    with pytest.raises(ValueError, match=re.escape(message)):
        share_of(split)


def test_each_class_gives_its_share_whatever_the_order():
    names = [f"{number % 3}/{number}.png" for number in range(600)]
    classes = [number % 3 for number in range(600)]
    chosen = choose_rows(names, 0.1, classes)
    assert Counter(np.array(classes)[chosen]) == {0: 20, 1: 20, 2: 20}
    order = random.Random(0).sample(range(600), 600)
    again = choose_rows([names[row] for row in order], 0.1, [classes[row] for row in order])
    assert (again == chosen[order]).all()
    assert {names[row] for row in np.flatnonzero(choose_rows(names, 0.05, classes))} < {
        names[row] for row in np.flatnonzero(chosen)
    }
    # Neither the first nor the last ones, nor every tenth.
    places = np.flatnonzero(chosen)
    assert places.min() < 60 and places.max() > 540 and len(set(np.diff(places))) > 5
    assert 200 < places.mean() < 400


def test_small_classes_share_what_is_rounded_and_keep_an_image():
    names, classes = [str(number) for number in range(100)], [number // 5 for number in range(100)]
    chosen = choose_rows(names, 0.1, classes)
    assert chosen.sum() == 10 and max(Counter(np.array(classes)[chosen]).values()) == 1
    single = choose_rows([str(number) for number in range(52)], 0.5, [0] * 50 + [1, 2])
    assert not single[50:].any() and single.sum() == 25


def test_groups_stay_together_and_classes_in_balance():
    rng = random.Random(0)
    groups, classes = [], []
    for group in range(80):
        size, label = rng.randint(1, 9), group % 4
        groups += [f"patient {group}"] * size
        classes += [label] * size
    chosen = choose_rows(groups, 0.2, classes)
    held_out, trained_on = (
        {group for group, one in zip(groups, chosen, strict=True) if one == side} for side in (True, False)
    )
    assert not held_out & trained_on
    for label in range(4):
        of_class = np.array(classes) == label
        assert chosen[of_class].mean() == pytest.approx(0.2, abs=0.08)
    assert chosen.mean() == pytest.approx(0.2, abs=0.02)


def test_a_group_that_has_all_images_of_a_class_is_trained_on():
    groups = ["a"] * 6 + ["b"] * 6 + ["c"] * 6 + ["d"] * 6
    rare = [0] * 18 + [0] * 5 + [1]
    for share in (0.25, 0.5):
        assert not choose_rows(groups, share, rare)[-1]


def test_a_folder_is_split_by_its_names(tmp_path):
    names = [f"{kind}/{number:03}.jpg" for kind in ("cat", "dog") for number in range(100)]
    source = load_source(touch_images(tmp_path / "photos", *names))
    train, held_out = split_off(source, "10%")
    assert (train.num_images, held_out.num_images) == (180, 20)
    assert paths_of(train) | paths_of(held_out) == paths_of(source) and not paths_of(train) & paths_of(held_out)
    assert Counter(held_out.dataset["label"]) == {0: 10, 1: 10}
    assert (train.split, held_out.split) == ("train without 10%", "10% of train")
    assert not train.origins and source.origins, "not known to be the images of the whole source"
    assert train.fingerprint != held_out.fingerprint
    again = split_off(load_source(tmp_path / "photos"), "10 %")
    assert [one.fingerprint for one in again] == [train.fingerprint, held_out.fingerprint]
    # The folder may move.
    moved = tmp_path / "elsewhere"
    (tmp_path / "photos").rename(moved)
    found = {path.replace(str(moved), "") for path in paths_of(split_off(load_source(moved), "10%")[1])}
    assert found == {path.replace(str(tmp_path / "photos"), "") for path in paths_of(held_out)}


def test_without_labels_and_with_rows_that_have_no_names(tmp_path, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    flat = load_source(touch_images(tmp_path, *(f"{number}.png" for number in range(50))))
    assert [side.num_images for side in split_off(flat, "10%")] == [45, 5]
    train, held_out = split_off(load_source("digits"), "20%")
    assert train.num_images + held_out.num_images == 1347 and held_out.num_images == 269
    assert len(set(held_out.dataset["label"])) == 10
    said = [record.message for record in caplog.records if "held out" in record.message]
    assert said[0].endswith("5 of 50 images (10.0 %) are held out; 45 are left to train on")
    share = "269 of 1,347 images (20.0 %) are held out, about the same share of each of 10 classes; 1,078 are left"
    assert share in said[1]


def test_too_few_images_are_refused(tmp_path):
    source = load_source(touch_images(tmp_path, *(f"{number}.png" for number in range(12))))
    with pytest.raises(
        ValueError, match="`eval_split` '5%' holds out 1 of the 12 images of .*: at least 2 are needed"
    ):
        split_off(source, "5%")
    with pytest.raises(ValueError, match="holds out 0 of the 12 images of .* by 1 groups of `group_column` '-1'"):
        split_off(load_source(touch_images(tmp_path / "one", *(f"a/{n}.png" for n in range(12)))), "50%", "-1")


@pytest.mark.parametrize("streaming", [False, True])
def test_groups_by_a_column(tmp_path, streaming):
    number = 300
    path = digits_with(tmp_path / "scans.parquet", number, patient=[f"p{row // 6}" for row in range(number)])
    train, held_out = split_off(load_source(path, streaming=streaming), "20%", "patient")
    patients = [{row["patient"] for row in side.dataset} for side in (train, held_out)]
    assert not patients[0] & patients[1] and len(patients[0] | patients[1]) == 50
    counts = [sum(1 for _ in side.dataset) for side in (train, held_out)]
    assert sum(counts) == number and counts[1] == pytest.approx(60, abs=30 if streaming else 6)
    with pytest.raises(ValueError, match="`group_column` 'pateint' is not in .*; its columns are: image, label, pat"):
        split_off(load_source(path, streaming=streaming), "20%", "pateint")
    with pytest.raises(ValueError, match="`group_column` 'image' of .* does not hold texts or numbers but Image"):
        split_off(load_source(path, streaming=streaming), "20%", "image")


def test_groups_by_the_folders_above_an_image(tmp_path):
    names = [f"{kind}/{plot}/{n}.png" for kind in ("oak", "elm") for plot in range(1, 11) for n in range(4)]
    source = load_source(touch_images(tmp_path, *names))
    train, held_out = split_off(source, "20%", "2")
    assert train.num_images == 64 and held_out.num_images == 16
    plots = [{Path(path).parent.name for path in paths_of(side)} for side in (train, held_out)]
    assert not plots[0] & plots[1], "plot 3 of both classes is one group"
    assert paths_of(split_off(source, "20%", "-1")[1]) == paths_of(held_out)


def test_folders_that_are_the_groups_are_no_labels(tmp_path):
    source = load_source(touch_images(tmp_path, *(f"p{p}/{n}.png" for p in range(10) for n in range(5))))
    assert source.label_column == "label"
    train, held_out = split_off(source, "20%", "-1")
    assert train.label_column is None and held_out.label_column is None and held_out.num_images == 10
    assert split_off(source, "20%")[1].label_column == "label"


def test_a_stream_is_split_by_its_images(tmp_path):
    path = digits_with(tmp_path / "scans.parquet", 600)
    source = load_source(path, streaming=True)
    train, held_out = split_off(source, "10%")
    found = [[row["image"]["bytes"] for row in side.dataset] for side in (train, held_out)]
    assert len(found[0]) + len(found[1]) == 600 and 35 < len(found[1]) < 85
    assert train.image_column == "image" and train.label_column == "label"
    # Whatever the file and the order: by the image alone.
    shuffled = Dataset.from_parquet(path).shuffle(seed=0)
    shuffled.to_parquet(tmp_path / "other.parquet")
    again = split_off(load_source(str(tmp_path / "other.parquet"), streaming=True), "10%")[1]
    assert sorted(row["image"]["bytes"] for row in again.dataset) == sorted(found[1])
    # What a stream says of its length is about right, and loader workers get a copy.
    assert [side.num_images for side in (source, train, held_out)] == [600, 540, 60]
    assert next(iter(pickle.loads(pickle.dumps(held_out.dataset))))["image"]["bytes"] == found[1][0]


def test_the_class_of_missing_labels_is_one_more(tmp_path):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    images = [Image.new("L", (4, 4), number) for number in range(40)]
    Dataset.from_dict({"image": images, "label": [0, None] * 20}, features=features).to_parquet(tmp_path / "a.parquet")
    held_out = split_off(load_source(str(tmp_path / "a.parquet")), "20%")[1]
    assert Counter(held_out.dataset["label"]) == {0: 4, None: 4}
    assert split_off(replace(load_source(str(tmp_path / "a.parquet")), label_column=None), "20%")[1].num_images == 8
