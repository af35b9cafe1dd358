import datasets
import pytest
from datasets import Dataset, IterableDataset
from pictures import number_of, save, table

from lejepa_hf.data.sources import load_mixture


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def entries(tmp_path) -> list[dict]:
    """A file with another image column, a folder of paths, and a dataset built already."""
    table(range(4)).to_parquet(tmp_path / "pets.parquet")
    for i in range(10, 13):
        save(tmp_path / "images" / "train" / f"{i}.png", i)
        save(tmp_path / "images" / "test" / f"{i}.png", 10 + i)
    built = table(range(30, 32)).rename_column("photo", "picture")
    return [
        {"dataset": str(tmp_path / "pets.parquet"), "weight": 3, "image_column": "photo"},
        {"dataset": str(tmp_path / "images"), "weight": 2, "split": "test"},
        {"dataset": built},
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_members_of_a_mixture(entries, streaming):
    mixture = load_mixture(entries, streaming)
    assert mixture.weights == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    rows = [list(member) for member in mixture.datasets]
    assert {tuple(row) for member in rows for row in member} == {("image",)}
    assert [[number_of(row["image"]) for row in member] for member in rows] == [[0, 1, 2, 3], [20, 21, 22], [30, 31]]
    assert {type(member) for member in mixture.datasets} == {IterableDataset if streaming else Dataset}


def test_a_mixture_of_streams_knows_its_length(entries):
    from lejepa_hf.data.dataset_kinds import count_rows

    assert count_rows(load_mixture(entries, streaming=True)) == 9


def test_a_stream_needs_streaming(entries):
    entries[2]["dataset"] = entries[2]["dataset"].to_iterable_dataset()
    assert len(load_mixture(entries, streaming=True).datasets) == 3
    with pytest.raises(ValueError, match="entry 2 of `mixture` is a stream: set `streaming: true`"):
        load_mixture(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wieght": 1}, "`wieght` in entry 1 of `mixture` is not a known key; did you mean `weight`?"),
        ({"streaming": True}, "`streaming` in entry 1 .* known are dataset, weight, config"),
        ({3: True}, "`3` in entry 1"),
        ({"weight": 0}, "`weights` must be positive numbers"),
        ({"weight": "2"}, "`weights` must be positive numbers"),
        ({"weight": None}, "`weights` must be positive numbers"),
        ({"weight": float("nan")}, "`weights` must be positive numbers"),
        ({"weight": float("inf")}, "`weights` must be positive numbers"),
        ({"dataset": "/no/such/folder"}, "'/no/such/folder': no such folder"),
        ({"image_column": "photo"}, "`image_column` 'photo' is not in"),
        ({"revision": "main"}, "`revision` 'main' has no meaning"),
    ],
)
def test_bad_entries(entries, change, message):
    entries[1] |= change
    with pytest.raises(ValueError, match=message):
        load_mixture(entries)


@pytest.mark.parametrize("entries", [[{"weight": 1}], ["me/pets"], [None]])
def test_entries_without_a_dataset(entries):
    with pytest.raises(ValueError, match="`dataset` is missing in entry 0 of `mixture`"):
        load_mixture(entries)


def test_an_empty_mixture():
    with pytest.raises(ValueError, match="`mixture` is empty"):
        load_mixture([])
