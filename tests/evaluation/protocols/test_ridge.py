import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.ridge import Ridge, r2_of


def drawn(number: int, seed: int) -> LabelledEmbeddings:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(5, 3, (number, 12))
    return LabelledEmbeddings(
        torch.from_numpy(embeddings).float(), torch.from_numpy(40 + embeddings[:, 0] + rng.normal(size=number))
    )


def guesses_by_hand(known: np.ndarray, numbers: np.ndarray, penalty: float, asked: np.ndarray) -> np.ndarray:
    """Ridge regression with an intercept, by its normal equations."""
    centre, mean = known.mean(0), numbers.mean()
    scatter = (known - centre).T @ (known - centre) + penalty * np.eye(known.shape[1])
    return mean + (asked - centre) @ np.linalg.solve(scatter, (known - centre).T @ (numbers - mean))


def test_equals_a_search_by_hand_that_leaves_out_each_image_once():
    train, test = drawn(100, 0), drawn(60, 1)
    found = Ridge().run(train, test)
    mean, std = train.embeddings.double().mean(0), train.embeddings.double().std(0, correction=0)
    known, asked = (((of.embeddings - mean) / std).numpy() for of in (train, test))
    numbers = train.labels.numpy()
    others = [np.arange(100) != row for row in range(100)]

    def error(penalty: float) -> float:
        left_out = [guesses_by_hand(known[rows], numbers[rows], penalty, known[~rows])[0] for rows in others]
        return float(((numbers - left_out) ** 2).sum())

    guesses = guesses_by_hand(known, numbers, min(np.logspace(-3, 6, 19), key=error), asked)
    assert found["eval_ridge_r2"] == pytest.approx(r2_score(test.labels.numpy(), guesses), abs=1e-5)
    assert found["eval_ridge_mae"] == pytest.approx(mean_absolute_error(test.labels.numpy(), guesses), abs=1e-4)
    assert found["eval_ridge_r2"] > 0.8
    errors = np.abs(test.labels.numpy() - guesses)
    assert found["eval_ridge_mae_ci95"] == pytest.approx(2.001 * errors.std(ddof=1) / np.sqrt(60), rel=1e-3)
    assert 0 < found["eval_ridge_r2_ci95"] < 0.15 and found.samples["eval_ridge_mae"] == pytest.approx(
        errors, abs=1e-3
    )


def test_equal_numbers_have_nothing_to_explain():
    assert r2_of(np.ones(3), np.arange(3.0))(np.arange(3)) == 0
