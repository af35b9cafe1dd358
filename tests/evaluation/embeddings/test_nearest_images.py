import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.image_source import some_rows
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.nearest_images import NearestImages
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def extractor(tiny_vit) -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(
        AutoModel.from_config(AutoConfig.for_model(**tiny_vit)), build_processor(16, crop_ratio=1.0)
    )


def source_of(values: list, labels: list[int]):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    dataset = Dataset.from_dict({"image": values, "label": labels}, features=features)
    return load_source(dataset)


def test_the_nearest_first_by_cosine(extractor):
    source = load_source("digits")
    rows = list(some_rows(source, 30))
    bank = NearestImages(extractor, source, rows, batch_size=8)
    images = [extractor.decode(row["image"]) for row in rows]
    embeddings = F.normalize(extractor(extractor.preprocess(images)), dim=1)
    found = bank(images[4], 5)
    cosines, order = (embeddings @ embeddings[4]).sort(descending=True)
    assert [neighbour.cosine for neighbour in found] == pytest.approx(cosines[:5].tolist(), abs=1e-5)
    assert found[0].cosine == pytest.approx(1, abs=1e-5) and found[0].value == rows[4]["image"]
    assert [neighbour.label for neighbour in found] == [str(rows[number]["label"]) for number in order[:5].tolist()]
    assert len(bank(images[0], 100)) == len(bank) == 30


def test_broken_images_and_missing_labels(extractor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    noise = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    good = [Image.fromarray(one) for one in noise]
    source = source_of([good[0], str(tmp_path / "broken.png"), good[1]], [0, 1, -1])
    bank = NearestImages(extractor, source, list(source.dataset))
    assert len(bank) == 2
    found = bank(extractor.decode(good[0]))
    assert [neighbour.label for neighbour in found] == ["cat", None]

    broken = source_of([str(tmp_path / "broken.png")], [1])
    with pytest.raises(ValueError, match="has no image that can be read among 1 of its rows"):
        NearestImages(extractor, broken, list(broken.dataset))
