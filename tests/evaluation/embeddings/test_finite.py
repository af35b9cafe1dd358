import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.embeddings.finite import extract_finite, refuse_not_finite
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.hub.export import build_processor

DIGITS = load_source("digits", "test")


def embedded(values: dict[int, float], number: int = 450, **given) -> LabelledEmbeddings:
    embeddings = torch.zeros(number, 4)
    for row, value in values.items():
        embeddings[row, row % 4] = value
    return LabelledEmbeddings(embeddings, torch.zeros(number, dtype=torch.long), **given)


def test_how_many_of_how_many_and_which():
    refuse_not_finite(embedded({}), DIGITS)
    with pytest.raises(ValueError, match=r"'digits': 2 of 450 images have NaN or infinite embeddings \(rows 3, 70\)"):
        refuse_not_finite(embedded({3: math.nan, 70: -math.inf}), DIGITS)
    with pytest.raises(ValueError, match=r"9 of 450 images .*\(rows 0, 1, 2, 3, 4, \.\.\.\)"):
        refuse_not_finite(embedded(dict.fromkeys(range(9), math.inf)), DIGITS)


def test_rows_are_those_of_the_source():
    left_out = frozenset({0, 2})  # broken images
    with pytest.raises(ValueError, match=r"1 of 10 images .*\(rows 3\)"):
        refuse_not_finite(embedded({1: math.nan}, 10, broken=left_out), DIGITS)


def test_features_of_the_probe_count_too():
    features = torch.zeros(10, 8)
    features[4, 7] = math.nan
    with pytest.raises(ValueError, match=r"1 of 10 images .*\(rows 4\)"):
        refuse_not_finite(embedded({}, 10, probe_features=features), DIGITS)


@pytest.fixture
def overflowing(tiny_vit):
    """An encoder whose weights are finite, and whose embeddings overflow."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False).eval()
    with torch.no_grad():
        model.layernorm.weight.fill_(3e38)
    return model, build_processor(16, crop_ratio=1.0)


def test_an_encoder_whose_embeddings_overflow(overflowing):
    few = replace(DIGITS, dataset=DIGITS.dataset.select(range(20)))
    with pytest.raises(ValueError, match="20 of 20 images have NaN or infinite embeddings"):
        extract_finite(overflowing, few)
    with pytest.raises(ValueError, match="20 of 20 images have NaN or infinite embeddings"):
        evaluate_encoder(overflowing, (few, replace(DIGITS, dataset=DIGITS.dataset.select(range(20, 30)))), ["knn"])
