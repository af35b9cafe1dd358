import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lejepa_hf.evaluation.embedding_extraction import LabelledEmbeddings
from lejepa_hf.evaluation.linear_probe import linear_probe


def toy(num_classes: int, rows: int = 400, spread: float = 1.0, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % num_classes
    centres = 5 * torch.randn(num_classes, 16, generator=torch.Generator().manual_seed(99))
    return LabelledEmbeddings(centres[labels] + spread * torch.randn(rows, 16, generator=generator), labels)


def test_separable_classes_are_separated():
    results = linear_probe(toy(10), toy(10, seed=1), num_steps=300)
    assert results["eval_linear_top1"] > 0.99
    assert results["eval_linear_top5"] > 0.99


def test_is_as_good_as_logistic_regression_on_pixels():
    pixels, labels = load_digits(return_X_y=True)
    expected = LogisticRegression(max_iter=2000).fit(pixels[:1000], labels[:1000]).score(pixels[1000:], labels[1000:])
    pixels, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels)
    results = linear_probe(
        LabelledEmbeddings(pixels[:1000], labels[:1000]), LabelledEmbeddings(pixels[1000:], labels[1000:])
    )
    assert results["eval_linear_top1"] == pytest.approx(expected, abs=0.03)
    assert results["eval_linear_top1"] <= results["eval_linear_top5"] <= 1


def test_random_labels_give_chance():
    parts = [toy(10, rows=2000, seed=seed) for seed in (0, 1)]
    for seed, part in enumerate(parts):
        part.labels = torch.randint(10, part.labels.shape, generator=torch.Generator().manual_seed(seed))
    results = linear_probe(*parts, num_steps=200)
    assert results["eval_linear_top1"] == pytest.approx(0.1, abs=0.04)
    assert results["eval_linear_top5"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_scale_of_the_embeddings_does_not_matter(scale):
    train, test = toy(10, spread=4.0), toy(10, spread=4.0, seed=1)
    scaled = [LabelledEmbeddings(part.embeddings * scale, part.labels) for part in (train, test)]
    results = linear_probe(train, test, num_steps=100)
    assert 0.3 < results["eval_linear_top1"] < 1
    assert linear_probe(*scaled, num_steps=100) == results


def test_fewer_than_five_classes_have_no_top5():
    assert set(linear_probe(toy(3), toy(3, seed=1), num_steps=20)) == {"eval_linear_top1"}


def test_is_deterministic_and_leaves_the_global_rng_alone():
    train, test = toy(10, spread=6.0), toy(10, spread=6.0, seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = linear_probe(train, test, num_steps=50)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert linear_probe(train, test, num_steps=50) == first


def test_embeddings_stay_as_they_are():
    train, test = toy(10), toy(10, seed=1)
    linear_probe(train, test, num_steps=5)
    assert torch.equal(train.embeddings, toy(10).embeddings)
    assert train.embeddings.grad is None
