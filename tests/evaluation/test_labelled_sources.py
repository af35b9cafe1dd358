from contextlib import nullcontext
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, concatenate_datasets
from PIL import Image

from lejepa_hf.data.shared_images import SharedImages
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.label_arrays import label_array
from lejepa_hf.evaluation.labelled_sources import (
    check_classes,
    check_held_out_classes,
    check_labels,
    check_pair,
    count_classes,
    count_shared,
    labelled_sources,
    labels_of,
)


@pytest.fixture
def built() -> datasets.DatasetDict:
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    rows = {"image": [image] * 4, "kind": ["cat", "dog"] * 2, "weight": [0.5] * 4, "label": [0, 1, 1, 0]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "kind": datasets.Value("string"),
            "weight": datasets.Value("float32"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    dataset = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict({"train": dataset, "held": dataset.select([0, 1])})


def test_splits_and_columns_of_a_preset():
    train, test = labelled_sources("digits")
    assert (train.num_images, test.num_images) == (1347, 450)
    assert labelled_sources("digits", "test", "train")[0].num_images == 450


def test_a_dataset_of_ones_own(built):
    train, test = labelled_sources(built, eval_split="held")
    assert labels_of(train).tolist() == [0, 1, 1, 0] and labels_of(test).tolist() == [0, 1]


def test_a_share_and_its_groups(built):
    train, test = labelled_sources("digits", eval_split="20%")
    assert (train.num_images, test.num_images) == (1078, 269) and test.split == "20% of train"
    check_pair(train, test)
    check_held_out_classes(train, test)
    assert labelled_sources(built, eval_split="50%", group_column="kind")[1].num_images == 2
    with pytest.raises(ValueError, match="`group_column` 'kind' chooses the images of a share: set `eval_split`"):
        labelled_sources(built, eval_split="held", group_column="kind")


def test_a_split_that_is_not_there(built):
    with pytest.raises(ValueError, match="has no split 'test': it has train, held"):
        labelled_sources(built)


def test_columns_that_hold_no_labels(built):
    dated = built["train"].add_column("day", [None] * 4, feature=datasets.Value("date32"))
    found = r"`label_column` 'day'.* does not hold labels but date32: labels are integers or texts .*\(kind, weight"
    with pytest.raises(ValueError, match=found):
        check_labels(load_source(dated, label_column="day"))


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_have_the_same_numbers_in_both_splits(built, tmp_path, streaming):
    pair = labelled_sources(built, eval_split="held", label_column="kind", streaming=streaming)
    assert [[row["kind"] for row in one.dataset] for one in pair] == [[0, 1, 0, 1], [0, 1]]
    assert pair[0].class_names == pair[1].class_names == ["cat", "dog"]
    for source in pair:
        check_labels(source)
    built["held"] = built["held"].map(lambda row: {"kind": "ant" if row["kind"] == "cat" else "dog"})
    train, test = labelled_sources(built, eval_split="held", label_column="kind", streaming=streaming)
    assert test.class_names == ["cat", "dog", "ant"]
    check_pair(train, test)  # whose numbers mean the same
    known = [torch.tensor([row["kind"] for row in one.dataset]) for one in (train, test)]
    with pytest.raises(ValueError, match=r"the held-out images have classes \(ant\) that are not among"):
        check_held_out_classes(train, test, tuple(known))


def test_images_without_a_label_are_not_evaluated(built):
    rows = {"kind": ["cat", None, "dog", ""], "image": built["train"]["image"]}
    given = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows))
    given["test"] = given["train"]
    given = given.cast_column("image", datasets.Image())
    train, test = labelled_sources(given, label_column="kind")
    assert (train.num_images, labels_of(test).tolist()) == (2, [0, 1])


def test_secret_labels(built):
    hidden = built["train"].map(lambda row, number: {"label": -1 if number else row["label"]}, with_indices=True)
    with pytest.raises(
        ValueError, match="3 of 4 images have -1 or nothing as class in `label_column` 'label'.*another split"
    ):
        check_labels(load_source(hidden))


def test_images_that_fit_measure_nothing(built):
    for pair in (labelled_sources("digits", "test", "test"), (load_source(built["train"]),) * 2):
        with pytest.raises(ValueError, match="protocols would be fitted and evaluated on the same images"):
            check_pair(*pair)
    check_pair(*labelled_sources(built, eval_split="held"))


def test_classes_numbered_differently(tmp_path):
    for folder in ("train/cat", "train/dog", "train/fox", "test/dog", "test/fox"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0.png")
    with pytest.raises(ValueError, match=r"classes of .* differ.*\(cat\)"):
        check_pair(load_source(tmp_path / "train"), load_source(tmp_path / "test"))
    check_pair(*labelled_sources(tmp_path))  # which numbers both alike


def test_no_labels(built):
    source = load_source(built["train"].remove_columns(["label"]))
    with pytest.raises(ValueError, match="has no labels; set `label_column`"):
        check_labels(source)


def test_labels_of_a_stream_are_not_known_before():
    source = load_source("digits", streaming=True)
    assert labels_of(source) is None
    check_labels(source)


def test_classes_are_counted_up_to_a_number_far_too_large():
    assert count_classes(torch.tensor([0, 2]), np.array([7])) == 8
    assert count_classes(np.array([999])) == 1000
    with pytest.raises(ValueError, match="The labels hold 70,000, but only 3 different numbers: set `label_kind"):
        count_classes(torch.tensor([0, 70_000]), np.array([0, 1]))


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_with_images_in_common(built, tmp_path, streaming):
    built.save_to_disk(tmp_path / "saved")
    splits = [("train", "train"), ("train", "train+held"), ("train", "train[:1]"), ("train[:3]", "train[50%:]")]
    for train_split, eval_split in splits:
        pair = labelled_sources(str(tmp_path / "saved"), train_split, eval_split, streaming=streaming)
        with pytest.raises(ValueError, match=r"evaluated on the same images \((all of )?train"):
            check_pair(*pair)
    check_pair(*labelled_sources(str(tmp_path / "saved"), "train[:50%]", "train[50%:]", streaming=streaming))


def test_a_stream_given_twice(built):
    stream = built["train"].to_iterable_dataset()
    with pytest.raises(ValueError, match=r"evaluated on the same images \(all images\)"):
        check_pair(load_source(stream), load_source(stream))


def test_copies_in_both_splits_are_named(caplog):
    train, test = labelled_sources("digits")
    assert count_shared(test, train) == SharedImages(0, 450) and not caplog.messages
    test.dataset = concatenate_datasets([test.dataset, train.dataset.select(range(3))])
    assert count_shared(test, train) == SharedImages(3, 453)
    assert "digits: 3 of 453 held-out images are also training images" in caplog.text


def test_a_single_class_has_nothing_to_tell_apart(built):
    train, test = labelled_sources(built, eval_split="held")
    check_classes(train)
    one = labelled_sources(built["train"].select([1, 2]), "train")[0]
    with pytest.raises(ValueError, match="all 2 images to fit protocols on are of class 1 in `label_column` 'label'"):
        check_classes(one)


@pytest.mark.parametrize(
    ("known", "held", "found"),
    [
        ([0, 1], [0, 1, 2, 2], r"have classes \(oak\) that are not among .* `train\[80%:\]`"),
        ([0, 1], [2, 3], r"have classes \(oak, pine\) that"),
        ([0, 1], [1, 1], r"all 2 held-out images are of one class \(fir\)"),
        ([0, 1, 2], [0, 2], None),
    ],
)
def test_held_out_images_that_cannot_be_evaluated_are_named(known, held, found):
    names = ["birch", "fir", "oak", "pine"]

    def source(numbers, split):
        rows = {"image": [{"bytes": b"", "path": None}] * len(numbers), "label": numbers}
        features = Features({"image": datasets.Image(decode=False), "label": ClassLabel(names=names)})
        return replace(load_source(Dataset.from_dict(rows, features=features)), split=split)

    pair = source(known, "train[:80%]"), source(held, "train[80%:]")
    labels = (torch.tensor(known), torch.tensor(held))  # as of streams
    for arguments in (pair, (*pair, labels)):
        if found is None:
            check_held_out_classes(*arguments)
        else:
            with pytest.raises(ValueError, match=found):
                check_held_out_classes(*arguments)


@pytest.mark.parametrize(
    ("known", "held", "found"),
    [
        ([["a"], ["b"], []], [["a"], ["a", "b"]], None),
        (
            [["a"], ["b"], []],
            [["a"], ["a"]],
            "none of the 2 classes has both held-out images of it and others among 2",
        ),
        ([["a"], ["b"], []], [[], []], "none of the 2 classes has both"),
        ([[], []], [["a"], []], "none of 2 images has a class in `label_column` 'marks'"),
        ([[], []], [[], []], "none of 2 images has a class in `label_column` 'marks'"),
    ],
)
def test_lists_of_classes_that_cannot_be_evaluated(known, held, found):
    texts = datasets.List(datasets.Value("string"))
    pair = labelled_sources(
        datasets.DatasetDict(train=_marked(known, texts), test=_marked(held, texts)), label_column="marks"
    )
    embedded = tuple(torch.from_numpy(label_array(source.dataset["marks"], source)) for source in pair)
    for labels in ((), (embedded,)):  # those of a map-style source, and of a stream
        with nullcontext() if found is None else pytest.raises(ValueError, match=found):
            for source in pair:
                check_labels(source)
            check_held_out_classes(*pair, *labels)


def _marked(values: list, feature: object) -> Dataset:
    rows = {"image": [{"bytes": b"", "path": None}] * len(values), "marks": values}
    return Dataset.from_dict(rows, features=Features({"image": datasets.Image(decode=False), "marks": feature}))


@pytest.mark.parametrize("missing", [float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_counted(missing):
    source = labelled_sources(
        datasets.DatasetDict(
            train=_marked([1.0, missing, None], datasets.Value("float32")),
            test=_marked([1.0], datasets.Value("float32")),
        ),
        label_column="marks",
    )[0]
    with pytest.raises(
        ValueError, match="1 of 2 images have no finite number in `label_column` 'marks': name another"
    ):
        check_labels(source)
