import io
import math
from dataclasses import replace

import datasets
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.errors import DataError
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings, extract_embeddings
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.hub.export import build_processor

DINOV2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DINOV2 |= {"image_size": 16, "patch_size": 4, "mlp_ratio": 2}
IJEPA = {"model_type": "ijepa", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IJEPA |= {"image_size": 16, "patch_size": 4, "intermediate_size": 64}


def build(config: dict, **kwargs):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**config), **kwargs).eval()


@pytest.fixture
def processor():
    return build_processor(16, crop_ratio=1.0)


@pytest.fixture(scope="module")
def digits() -> ImageSource:
    source = load_source("digits")
    return replace(source, dataset=source.dataset.select(range(23)))


def test_broken_images_are_left_out_with_their_labels(digits, processor, tiny_resnet, caplog):
    rows = list(digits.dataset)
    rows[4]["image"] = {"bytes": rows[4]["image"]["bytes"][:40], "path": None}
    rows[22]["image"] = {"bytes": b"", "path": None}
    damaged = replace(digits, dataset=datasets.Dataset.from_list(rows, digits.dataset.features))
    labels = [label for number, label in enumerate(digits.dataset["label"]) if number not in (4, 22)]
    encoder = build(tiny_resnet)
    whole, embedded = (extract_embeddings(encoder, processor, source, 5) for source in (digits, damaged))
    assert embedded.labels.tolist() == labels == raw_pixels(damaged).labels.tolist()
    kept = [number for number in range(23) if number not in (4, 22)]
    torch.testing.assert_close(embedded.embeddings, whole.embeddings[kept], atol=1e-5, rtol=1e-4)
    assert "2 broken images are left out, the first one row 4: " in caplog.text


def test_images_without_labels(digits, processor, tiny_resnet):
    encoder = build(tiny_resnet)
    labelled = extract_embeddings(encoder, processor, digits, 7)
    for source in (digits, replace(digits, dataset=list(digits.dataset))):  # as rows that a stream gave, too
        embedded = extract_embeddings(encoder, processor, replace(source, label_column=None), 7)
        assert embedded.labels.tolist() == [-1] * 23
        torch.testing.assert_close(embedded.embeddings, labelled.embeddings)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_rows_keep_their_order_for_every_batch_size(digits, processor, tiny_resnet, batch_size):
    encoder = build(tiny_resnet)
    embedded = extract_embeddings(encoder, processor, digits, batch_size)
    assert embedded.labels.tolist() == digits.dataset["label"]
    for row in (0, 11, 22):
        image = Image.open(io.BytesIO(digits.dataset[row]["image"]["bytes"])).convert("RGB")
        with torch.no_grad():
            alone = encoder(**processor(image, return_tensors="pt")).pooler_output.flatten()
        torch.testing.assert_close(embedded.embeddings[row], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "pooling", "expected"),
    [
        ("vit", "pooler", lambda outputs: outputs.pooler_output),
        ("vit", "cls", lambda outputs: outputs.last_hidden_state[:, 0]),
        ("vit", "mean", lambda outputs: outputs.last_hidden_state.mean(1)),
        ("resnet", "mean", lambda outputs: outputs.last_hidden_state.mean((2, 3))),
        # Models of others say nothing.
        ("vit", None, lambda outputs: outputs.pooler_output),
        (DINOV2, None, lambda outputs: outputs.pooler_output),
        ("resnet", None, lambda outputs: outputs.pooler_output[:, :, 0, 0]),
        (IJEPA, None, lambda outputs: outputs.last_hidden_state.mean(1)),
    ],
)
def test_pools_as_the_export_says(digits, processor, tiny_vit, tiny_resnet, config, pooling, expected):
    config = {"vit": tiny_vit, "resnet": tiny_resnet}[config] if isinstance(config, str) else config
    kwargs = {"add_pooling_layer": False} if config is IJEPA else {}
    encoder = build(config, **kwargs)
    if pooling is not None:
        encoder.config.embedding_pooling = pooling
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in digits.dataset]
    with torch.no_grad():
        reference = expected(encoder(**processor(images, return_tensors="pt")))
    embeddings = extract_embeddings(encoder, processor, digits).embeddings
    assert embeddings.shape == reference.shape == (23, 16 if config["model_type"] == "resnet" else 32)
    torch.testing.assert_close(embeddings, reference, atol=1e-5, rtol=1e-4)


def test_images_of_another_size_than_the_position_table(digits, tiny_vit):
    embeddings = extract_embeddings(build(tiny_vit), build_processor(8, crop_ratio=1.0), digits).embeddings
    assert embeddings.shape == (23, 32)
    assert embeddings.isfinite().all()


def test_result_can_be_trained_on_and_gradients_stay_on(digits, processor, tiny_resnet):
    embedded = extract_embeddings(build(tiny_resnet), processor, digits)
    assert torch.is_grad_enabled()
    assert not embedded.embeddings.requires_grad
    head = torch.nn.Linear(16, 1)
    head(embedded.embeddings).sum().backward()  # an inference tensor would raise
    torch.testing.assert_close(head.weight.grad[0], embedded.embeddings.sum(0))


def test_batch_norm_neither_learns_nor_uses_the_batch(digits, processor, tiny_resnet):
    encoder = build(tiny_resnet)
    expected = extract_embeddings(encoder, processor, digits, batch_size=23).embeddings
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    found = extract_embeddings(encoder, processor, digits, batch_size=23).embeddings
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_half_precision_encoders_give_fp32(digits, processor, tiny_resnet):
    encoder = build(tiny_resnet)
    expected = extract_embeddings(encoder, processor, digits).embeddings
    found = extract_embeddings(encoder.bfloat16(), processor, digits).embeddings
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


DIGITS = load_source("digits", "test")


def test_labels_of_a_stream_are_checked_while_it_is_read(digits, processor, tiny_resnet):
    encoder = build(tiny_resnet)
    numbers = {**digits.dataset.features, "label": datasets.Value("float64")}
    endless = digits.dataset.to_iterable_dataset().map(
        lambda row: {"label": math.inf if row["label"] == 3 else row["label"]}, features=datasets.Features(numbers)
    )
    number = sum(label == 3 for label in digits.dataset["label"])
    with pytest.raises(ValueError, match=f"{number} of 23 images have no finite number in `label_column` 'label'"):
        extract_embeddings(encoder, processor, replace(digits, dataset=endless, class_names=None))
    none = digits.dataset.to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(DataError, match="digits: there are no images, or none of them has a label"):
        extract_embeddings(encoder, processor, replace(digits, dataset=none))


def embedded(values: dict[int, float], number: int = 450, **given) -> LabelledEmbeddings:
    embeddings = torch.zeros(number, 4)
    for row, value in values.items():
        embeddings[row, row % 4] = value
    return LabelledEmbeddings(embeddings, torch.zeros(number, dtype=torch.long), **given)


def test_how_many_of_how_many_and_which():
    embedded({}).refuse_not_finite(DIGITS)
    with pytest.raises(ValueError, match=r"'digits': 2 of 450 images have NaN or infinite embeddings \(rows 3, 70\)"):
        embedded({3: math.nan, 70: -math.inf}).refuse_not_finite(DIGITS)
    with pytest.raises(ValueError, match=r"9 of 450 images .*\(rows 0, 1, 2, 3, 4, \.\.\.\)"):
        embedded(dict.fromkeys(range(9), math.inf)).refuse_not_finite(DIGITS)


def test_rows_are_those_of_the_source():
    left_out = frozenset({0, 2})  # broken images
    with pytest.raises(ValueError, match=r"1 of 10 images .*\(rows 3\)"):
        embedded({1: math.nan}, 10, broken=left_out).refuse_not_finite(DIGITS)


def test_features_of_the_probe_count_too():
    features = torch.zeros(10, 8)
    features[4, 7] = math.nan
    with pytest.raises(ValueError, match=r"1 of 10 images .*\(rows 4\)"):
        embedded({}, 10, probe_features=features).refuse_not_finite(DIGITS)


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
        extract_embeddings(*overflowing, few)
    with pytest.raises(ValueError, match="20 of 20 images have NaN or infinite embeddings"):
        evaluate_encoder(overflowing, (few, replace(DIGITS, dataset=DIGITS.dataset.select([20, 21, 22]))), ["knn"])
