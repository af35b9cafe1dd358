import datasets
import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.image_contents import checksum_of_rows, digest_of, spread_rows, whole_digest_of
from lejepa_hf.data.sources import load_source, png_bytes

DIGITS = load_source("digits").dataset


def test_bytes_are_bytes_wherever_they_lie(tmp_path):
    content = png_bytes(np.arange(64, dtype=np.uint8).reshape(8, 8))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    values = [content, {"bytes": content, "path": None}, path, str(path), {"bytes": None, "path": str(path)}]
    assert len({digest_of(value) for value in values}) == 1
    assert digest_of(content[:-1] + b"x") != digest_of(content) != digest_of(content + b"x")
    large = bytes(300_000)
    (tmp_path / "large").write_bytes(large)
    assert digest_of(large) == digest_of(tmp_path / "large") != digest_of(large + b"\0")
    assert digest_of(np.zeros((2, 8), np.uint8)) != digest_of(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("value", [Image.new("L", (8, 8)), None, "/no/such/file", "https://x/a.png", {"path": None}])
def test_what_has_no_bytes(value):
    assert digest_of(value) is None


def test_large_files_that_differ_in_the_middle(tmp_path):
    large, other = bytes(300_000), bytes(150_000) + b"x" + bytes(149_999)
    for name, content in (("a", large), ("b", other)):
        (tmp_path / name).write_bytes(content)
        assert whole_digest_of(content) == whole_digest_of(tmp_path / name) == whole_digest_of({"bytes": content})
    assert digest_of(large) == digest_of(other) and whole_digest_of(large) != whole_digest_of(other)
    assert whole_digest_of(tmp_path / "a") != whole_digest_of(tmp_path / "b")
    assert whole_digest_of(np.frombuffer(large, np.uint8)) != whole_digest_of(np.frombuffer(other, np.uint8))
    (tmp_path / "a").write_bytes(other)
    assert whole_digest_of(tmp_path / "a") == whole_digest_of(other)  # not what it was before
    assert digest_of(b"few") == whole_digest_of(b"few")


def test_rows_are_spread():
    assert spread_rows(3, 5) == [0, 1, 2] and spread_rows(100, 4) == [0, 25, 50, 75]


def save(folder, numbers):
    folder.mkdir()
    for number in numbers:
        Image.new("L", (8, 8), number).save(folder / f"{number:03}.png")
    return load_source(folder).dataset


def test_a_moved_folder_keeps_its_checksum(tmp_path):
    dataset = save(tmp_path / "a", range(100))
    before = checksum_of_rows(dataset, "image")
    (tmp_path / "a").rename(tmp_path / "b")
    assert checksum_of_rows(load_source(tmp_path / "b").dataset, "image") == before
    assert checksum_of_rows(save(tmp_path / "c", range(1, 101)), "image") != before
    assert checksum_of_rows(dataset.select(range(99)), "image") != before


def test_the_form_of_a_dataset_does_not_matter(tmp_path):
    expected = checksum_of_rows(DIGITS, "image")
    assert checksum_of_rows(DIGITS.cast_column("image", datasets.Image()), "image") == expected
    assert checksum_of_rows(DIGITS.with_transform(lambda rows: {"image": [None] * len(rows["image"])}), "image") == (
        expected
    )
    assert checksum_of_rows(list(DIGITS), "image") == expected
    assert checksum_of_rows(DIGITS.shuffle(seed=1), "image") != expected


def test_streams_and_mixtures():
    stream = checksum_of_rows(DIGITS.to_iterable_dataset(), "image")
    assert stream == checksum_of_rows(DIGITS.to_iterable_dataset(num_shards=7), "image")
    assert stream != checksum_of_rows(DIGITS.select(range(5, 900)).to_iterable_dataset(), "image")
    few = DIGITS.select(range(9))
    assert checksum_of_rows(Mixture([DIGITS, few], [1, 2]), "image") == (
        checksum_of_rows(Mixture([DIGITS, few], [1, 1]), "image")
    )
    assert checksum_of_rows(Mixture([DIGITS, few], [1, 1]), "image") != (
        checksum_of_rows(Mixture([few, DIGITS], [1, 1]), "image")
    )


def test_images_that_are_opened_already_have_none():
    rows = [{"image": Image.new("L", (8, 8))}] * 3
    assert (
        checksum_of_rows(rows, "image") is None and checksum_of_rows(Mixture([rows, DIGITS], [1, 1]), "image") is None
    )
