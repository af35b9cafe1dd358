import pytest

from lejepa_hf.data.image_source import some_rows
from lejepa_hf.data.sources import load_source


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sample_at_random_of_images_that_come_class_by_class(streaming):
    digits = load_source("digits").dataset.sort("label")
    source = load_source(digits, streaming=streaming)
    rows = list(some_rows(source, 300))
    assert len(rows) == 300
    images = [row["image"]["bytes"] for row in rows]
    assert len(set(images)) > 290  # each once; a few scans are alike
    assert images == [row["image"]["bytes"] for row in some_rows(source, 300)]
    assert images != [row["image"]["bytes"] for row in some_rows(source, 300, seed=1)]
    if not streaming:  # a stream shuffles within its buffer
        assert {row["label"] for row in rows} == set(range(10))


def test_no_more_than_there_are():
    assert len(list(some_rows(load_source("digits", "test"), 10_000))) == 450
