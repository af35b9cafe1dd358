import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.few_shot import FewShot
from lejepa_hf.evaluation.protocols.logistic_regression import Logistic


def few_shot(train: LabelledEmbeddings, test: LabelledEmbeddings, shots=None) -> dict[str, float]:
    return FewShot(shots).run(train, test)


def toy(rows_per_class: list[int], seed: int) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(rows_per_class)).repeat_interleave(torch.tensor(rows_per_class))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(rows_per_class), 6, generator=torch.Generator().manual_seed(99))
    return LabelledEmbeddings(3 + centres[labels] + torch.randn(len(labels), 6, generator=generator), labels)


def test_equals_scikit_learn_on_the_same_draws():
    train, test = toy([30, 20, 25], 0), toy([50, 50, 50], 1)
    results = few_shot(train, test, shots=(2, 8))
    embeddings, labels = train.embeddings.double().numpy(), train.labels.numpy()
    for k in (2, 8):
        accuracies = []
        for draw in range(20):
            rng = np.random.default_rng([0, k, draw])
            rows = np.concatenate([rng.choice(np.flatnonzero(labels == label), k, False) for label in range(3)])
            mean, std = embeddings[rows].mean(0), embeddings[rows].std(0)
            model = LogisticRegression(max_iter=1000).fit((embeddings[rows] - mean) / std, labels[rows])
            accuracies.append(model.score((test.embeddings.double().numpy() - mean) / std, test.labels.numpy()))
        assert results[f"eval_{k}shot_top1"] == pytest.approx(np.mean(accuracies), abs=1e-3)
        assert results[f"eval_{k}shot_top1_std"] == pytest.approx(np.std(accuracies, ddof=1), abs=1e-3)
        assert results[f"eval_{k}shot_top1_std"] > 0


def test_names_of_the_results():
    results = few_shot(toy([12, 120], 0), toy([5, 5], 1))
    drawn = [f"eval_{k}shot_top1{end}" for k in (1, 2, 5, 10) for end in ("", "_ci95", "_std")]
    assert list(results) == [*drawn, "eval_allshot_top1", "eval_allshot_top1_ci95"]


def test_shots_that_a_class_is_too_small_for_are_left_out_and_told(caplog):
    caplog.set_level("INFO", "lejepa_hf")
    results = few_shot(toy([12, 9, 20], 0), toy([5, 5, 5], 1))
    assert [name for name in results if name.endswith("shot_top1")] == [f"eval_{k}shot_top1" for k in (1, 2, 5, "all")]
    assert "The smallest class has 9 images: 10 and 100 shots are left out." in caplog.text


def test_all_of_them_is_logistic_regression():
    train, test = toy([30, 20, 25], 0), toy([50, 50, 50], 1)
    results = few_shot(train, test, shots=("all",))
    assert list(results.values()) == list(Logistic().run(train, test).values())


def test_as_many_shots_as_all_classes_have_images_are_all_of_them():
    train, test = toy([10, 10, 10], 0), toy([50, 50, 50], 1)
    results = few_shot(train, test, shots=(5, 10, "all"))
    assert [name for name in results if "10shot" in name] == ["eval_10shot_top1", "eval_10shot_top1_ci95"]
    assert results["eval_10shot_top1"] == results["eval_allshot_top1"]
    assert results["eval_10shot_top1_ci95"] == results["eval_allshot_top1_ci95"] > 0


def test_all_of_many_images_must_be_asked_for(monkeypatch, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    monkeypatch.setattr(
        "lejepa_hf.evaluation.protocols.few_shot._MOST_NUMBERS", 24 * toy([12, 12], 0).embeddings.shape[1] - 1
    )
    train, test = toy([12, 12], 0), toy([5, 5], 1)
    assert "eval_allshot_top1" not in few_shot(train, test)
    assert "`all` shots of 24 images with" in caplog.text
    assert "eval_allshot_top1" in few_shot(train, test, shots=("all",))


@pytest.mark.parametrize("shots", [(0,), (1, "many"), (2.5,)])
def test_shots_that_are_none(shots):
    with pytest.raises(ValueError, match=r"`shots` .* must be a number of images per class"):
        few_shot(toy([12, 12], 0), toy([5, 5], 1), shots)


def test_all_encoders_get_the_same_draws():
    train, test = toy([20, 20, 20], 0), toy([40, 40, 40], 1)
    # Another "encoder" that tells images apart just as well: only other draws could change its results.
    twins = [LabelledEmbeddings(-4 * part.embeddings, part.labels) for part in (train, test)]
    first = few_shot(train, test, shots=(3,))
    np.random.seed(1)
    torch.manual_seed(1)
    assert few_shot(*twins, shots=(3,)) == pytest.approx(first, abs=1e-6)
    others = LabelledEmbeddings(train.embeddings.flip(0), train.labels.flip(0))  # other images in the same places
    assert few_shot(others, test, shots=(3,)) != pytest.approx(first, abs=1e-6)


def test_more_labelled_images_help():
    results = few_shot(toy([40] * 5, 0), toy([40] * 5, 1), shots=(1, 30))
    assert results["eval_30shot_top1"] > results["eval_1shot_top1"] + 0.05


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(ValueError, match=r"`shots` 10 needs more images than class \[1, 3\] has: choose at most 2"):
        few_shot(toy([12, 9, 10, 2], 0), toy([5, 5, 5, 5], 1), (1, 10))
