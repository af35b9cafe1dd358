import sys

import datasets
import pytest

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.imagenet_classes import with_imagenet_classes, wordnet_ids

# Numbers that are known from the list of ImageNet's classes: goldfish, stingray, acorn.
KNOWN = {"n01443537": 1, "n01498041": 6, "n12267677": 988}


def a_source(labels: list, feature, streaming: bool = False):
    features = datasets.Features({"image": datasets.Image(), "wnid": feature})
    rows = {"image": [{"bytes": bytes([number]), "path": None} for number in range(len(labels))], "wnid": labels}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    return load_source(dataset, streaming=streaming, label_column="wnid")


def test_ids_are_in_the_order_of_the_classes():
    ids = wordnet_ids()
    assert list(ids.values()) == list(range(1000)) and list(ids) == sorted(ids)
    assert {name: ids[name] for name in KNOWN} == KNOWN


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_and_names_of_classes_become_the_same_numbers(streaming):
    of_texts = a_source(["n12267677", "n01443537", "n12267677"], datasets.Value("string"), streaming)
    of_classes = a_source([1, 0, 1], datasets.ClassLabel(names=["n01443537", "n12267677"]), streaming)
    for source in (of_texts, of_classes):
        found = with_imagenet_classes(source)
        rows = list(found.dataset)
        assert [row["wnid"] for row in rows] == [988, 1, 988]
        assert [row["image"]["bytes"] for row in rows] == [b"\x00", b"\x01", b"\x02"]
        assert found.features["wnid"].dtype == "int64" and found.class_names is None
        assert len(found.origins) == len(source.origins) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_not_a_class_of_imagenet(streaming):
    for source in (
        a_source(["n99999999"], datasets.Value("string"), streaming),
        a_source([0], datasets.ClassLabel(names=["cat"]), streaming),
    ):
        with pytest.raises(ValueError, match="`label_column` 'wnid' of .* is not the WordNet id of a class"):
            list(with_imagenet_classes(source).dataset)


def test_without_timm(monkeypatch):
    wordnet_ids.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(ValueError, match="WordNet ids as labels, .* comes with timm: `pip install timm`"):
        wordnet_ids()
