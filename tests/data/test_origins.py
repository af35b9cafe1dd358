import datasets
import pytest
from PIL import Image

from lejepa_hf.data.origins import Origin, rows_in_common
from lejepa_hf.data.sources import load_mixture, load_source

TWENTY = {"train": 20, "test": 20}.get


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("train", "train", "all of train"),
        ("train", "test", None),
        ("train+test", "test", "all of test"),
        ("train", "train[:10%]", "train[0:2]"),
        ("train[:10]", "train[10:]", None),
        ("train[:12]", "train[8:16]", "train[8:12]"),
        ("train[:50%]", "train[-50%:]", None),
        ("train[:50%]", "train[9:]", "train[9:10]"),
        ("train[:5]+test", "test[3:4]", "test[3:4]"),
        ("train[5:5]", "train", None),
        (None, "train", "all images"),
    ],
)
def test_splits_of_one_source(one, other, common):
    pair = Origin("digits", one, length_of=TWENTY), Origin("digits", other, length_of=TWENTY)
    assert rows_in_common(*pair) == rows_in_common(*reversed(pair)) == common


def test_what_is_not_known_to_be_the_same():
    train = Origin("user/a", "train", ("small", "main"))
    assert rows_in_common(train, Origin("user/b", "train", ("small", "main"))) is None
    assert rows_in_common(train, Origin("user/a", "train", ("large", "main"))) is None
    assert rows_in_common(train, None) is None
    assert rows_in_common(Origin("user/a", "train[:5]"), Origin("user/a", "train[:9]")) is None  # nobody knows lengths


def test_files():
    def files(split, *names):
        return Origin(frozenset(names), split, length_of=TWENTY)

    assert rows_in_common(files("train", "/x/a", "/x/b"), files("train", "/x/b", "/x/c")) == "b"
    assert rows_in_common(files("train", "/x/a", "/x/b"), files("train[:5]", "/x/b")) == "b"
    assert rows_in_common(files("train[:5]", "/x/a", "/x/b"), files("train", "/x/b")) is None  # perhaps all of a
    assert rows_in_common(files("train", "/x/a"), files("train", "/x/b")) is None
    assert rows_in_common(files("train[:5]", "/x/a"), files("train[4:]", "/x/a")) == "train[4:5]"


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "images"), split="train").to_parquet(
        tmp_path / "a.parquet"
    )
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
def test_one_place_by_several_names(folder, streaming):
    (plain,), (linked,) = (
        load_source(folder / name, streaming=streaming).origins for name in ("images", "link/../images/.")
    )
    assert rows_in_common(plain, linked) == "all of train"
    (one,) = load_source(folder / "a.parquet", streaming=streaming).origins
    (other,) = load_source("parquet", data_files=[str(folder / "*.parquet")], streaming=streaming).origins
    assert rows_in_common(one, other) == "all of train" and rows_in_common(one, plain) is None


def test_slices_are_counted_where_the_length_is_first_needed(folder):
    def origin(split, name="images", **settings):
        return load_source(folder / name, split, **settings).origins[0]

    assert rows_in_common(origin("train[:50%]"), origin("train[2:]", streaming=True)) == "train[2:3]"
    assert rows_in_common(origin("train[:50%]"), origin("train[3:]")) is None
    assert rows_in_common(origin("train[:4]", "a.parquet"), origin("train[50%:]", "a.parquet")) == "train[3:4]"


def test_of_a_selection_nothing_is_known(folder):
    source = load_source(folder / "images")
    assert len(source.origins) == 1
    source.dataset = source.dataset.select([0])
    assert source.origins == []
    given = datasets.Dataset.from_dict({"image": [Image.new("L", (8, 8))] * 3})
    pair = load_source(given), load_source(given)
    assert rows_in_common(pair[0].origins[0], pair[1].origins[0]) == "all images"
    assert len(load_mixture([{"dataset": str(folder / "images")}, {"dataset": "digits"}]).origins) == 2
