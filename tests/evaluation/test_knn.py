import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lejepa_hf.evaluation.embedding_extraction import LabelledEmbeddings
from lejepa_hf.evaluation.knn import knn


def overlapping_classes(rows: int, seed: int) -> LabelledEmbeddings:
    """Four classes that no method separates: an accuracy tells right neighbours and weights from wrong ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (rows,), generator=generator)
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    return LabelledEmbeddings(0.6 * centres[labels] + torch.randn(rows, 8, generator=generator), labels)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_equals_scikit_learn(k, temperature):
    train, test = overlapping_classes(200, 0), overlapping_classes(1500, 1)  # more queries than fit in one chunk
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train.embeddings, train.labels)
    expected = reference.score(test.embeddings, test.labels)
    assert 0.4 < expected < 0.9
    assert knn(train, test, k=k, temperature=temperature) == {"eval_knn_top1": pytest.approx(expected, abs=1e-9)}


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_scale_of_the_embeddings_does_not_matter(scale):
    train, test = overlapping_classes(200, 0), overlapping_classes(300, 1)
    scaled = [LabelledEmbeddings(part.embeddings * scale, part.labels) for part in (train, test)]
    assert knn(*scaled) == knn(train, test)


def test_more_neighbours_than_images_is_all_images():
    train, test = overlapping_classes(12, 0), overlapping_classes(300, 1)
    assert knn(train, test, k=500) == knn(train, test, k=12)


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (0.001, 0), (10.0, 1)])
def test_one_near_neighbour_against_two_far_ones(temperature, winner):
    angles = torch.tensor([0.1, 1.0, -1.0])
    train = LabelledEmbeddings(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 1]))
    test = LabelledEmbeddings(torch.tensor([[1.0, 0.0]]), torch.tensor([winner]))
    assert knn(train, test, k=3, temperature=temperature)["eval_knn_top1"] == 1


def test_a_cold_vote_is_the_nearest_neighbour_alone():
    train, test = overlapping_classes(200, 0), overlapping_classes(300, 1)
    assert knn(train, test, k=20, temperature=1e-5) == knn(train, test, k=1)


def test_a_class_that_never_voted_is_never_guessed():
    train, test = overlapping_classes(50, 0), overlapping_classes(20, 1)
    test.labels[:] = 7
    assert knn(train, test) == {"eval_knn_top1": 0}
