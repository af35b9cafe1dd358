import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, top_k_accuracy_score

from lejepa_hf.evaluation.classification import METRICS, ClassPredictions, check_metrics, is_unbalanced
from lejepa_hf.evaluation.intervals import with_interval


def drawn(number: int = 300, num_classes: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unbalanced labels, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(num_classes, number, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    logits = rng.normal(size=(number, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return torch.from_numpy(labels), torch.from_numpy(logits).softmax(1)


def collected(labels, probabilities, metrics=None, **settings):
    predictions = ClassPredictions(labels, metrics, **settings)
    for chunk in probabilities.split(100):
        predictions.add(chunk)
    return predictions.figures("eval_x")


def test_equals_scikit_learn():
    labels, probabilities = drawn()
    found, guesses = collected(labels, probabilities), probabilities.argmax(1)
    assert found["eval_x_top1"] == pytest.approx((guesses == labels).double().mean())
    assert found["eval_x_top5"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5, labels=range(6)))
    assert found["eval_x_mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, guesses))
    assert found["eval_x_macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert found["eval_x_auroc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert all(f"eval_x_{name.replace('-', '_')}_ci95" in found for name in METRICS)


def test_two_classes_and_columns_by_number():
    labels = torch.tensor([7, 7, 7, 7, 3, 3])
    scores = torch.tensor([0.9, 0.8, 0.3, 0.6, 0.7, 0.2])
    predictions = ClassPredictions(labels, METRICS)
    predictions.add(torch.stack([1 - scores, scores], dim=1), torch.tensor([3, 7]))
    found = predictions.figures("x")
    assert found["x_top1"] == pytest.approx(4 / 6) and "x_top5" not in found
    assert found["x_mean_per_class"] == pytest.approx((0.75 + 0.5) / 2)
    assert found["x_auroc"] == pytest.approx(roc_auc_score(labels == 7, scores))


def test_a_held_out_class_that_the_classifier_does_not_know_is_never_right():
    predictions = ClassPredictions(torch.tensor([0, 1, 2, 2]), METRICS)
    predictions.add(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]]))
    found = predictions.figures("x")
    assert found["x_mean_per_class"] == pytest.approx(2 / 3)
    assert found["x_auroc"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_balanced_labels_have_accuracies_alone():
    labels = torch.arange(6).repeat(40)
    probabilities = drawn(240)[1]
    found = collected(labels, probabilities)
    assert list(found) == ["eval_x_top1", "eval_x_top1_ci95", "eval_x_top5", "eval_x_top5_ci95"]
    right = (probabilities.argmax(1) == labels).double().mean().item()
    assert {name: found[name] for name in list(found)[:2]} == with_interval("eval_x_top1", right, 240)
    assert list(collected(labels, probabilities, usual=("top1",))) == ["eval_x_top1", "eval_x_top1_ci95"]
    assert list(collected(labels, probabilities, ["auroc"])) == ["eval_x_auroc", "eval_x_auroc_ci95"]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([90, 10], True), ([70, 30], True), ([55, 45], False), ([7, 3], False), ([1, 1, 4], False), ([500], False)],
)
def test_unbalanced_by_more_than_chance(counts, expected):
    assert is_unbalanced(np.repeat(np.arange(len(counts)), counts)) == expected


@pytest.mark.slow
def test_samples_have_the_figure_as_mean_and_its_spread():
    """The spread of each figure over many test sets is the one that a single test set tells."""
    figures = [collected(*drawn(seed=seed), ["top1", "mean-per-class", "auroc"]) for seed in range(200)]
    for name, samples in figures[0].samples.items():
        assert samples.mean() == pytest.approx(figures[0][name])
        spread = np.std([of_set[name] for of_set in figures])
        told = np.mean([of_set.samples[name].std() / np.sqrt(300) for of_set in figures])
        assert told == pytest.approx(spread, rel=0.25), name


@pytest.mark.parametrize("by_number", [False, True])
def test_only_classes_of_the_held_out_images_are_guessed(by_number):
    """As papers do on ImageNet-A, whose images have 200 of the 1,000 classes that the classifier knows."""
    labels, probabilities = drawn()
    is_held_out = np.isin(labels, (1, 3, 4))
    labels, probabilities = labels[is_held_out], probabilities[is_held_out]
    columns, numbers = (probabilities.flip(1), torch.arange(5, -1, -1)) if by_number else (probabilities, None)
    restricted = ClassPredictions(labels, ["top1", "auroc"], only_present=True)
    restricted.add(columns, numbers)
    guesses = np.array([1, 3, 4])[probabilities[:, [1, 3, 4]].argmax(1)]
    found, free = restricted.values(), collected(labels, probabilities, ["top1", "auroc"])
    assert found["top1"] == (guesses == labels.numpy()).mean() > free["eval_x_top1"]
    assert found["auroc"] == pytest.approx(free["eval_x_auroc"])


def test_a_classifier_that_knows_no_class_of_the_held_out_images():
    predictions = ClassPredictions(torch.tensor([0, 1]), ["top1"], only_present=True)
    predictions.add(torch.full((2, 2), 0.5), torch.tensor([7, 8]))
    assert predictions.values() == {"top1": 0}


def test_unknown_metrics_are_refused():
    check_metrics(None)
    with pytest.raises(ValueError, match="`metrics` f1, top2 unknown; known are top1, top5, mean-per-class"):
        check_metrics(["f1", "top1", "top2"])
    with pytest.raises(ValueError, match="`metrics` is empty: name some of top1, "):
        check_metrics([])


def test_values_are_the_figures():
    labels, probabilities = drawn()
    predictions = ClassPredictions(labels)
    predictions.add(probabilities)
    figures = predictions.figures("x")
    assert predictions.values() == pytest.approx(
        {name.replace("-", "_"): figures[f"x_{name.replace('-', '_')}"] for name in METRICS}
    )


def test_scores_that_are_none_are_refused():
    predictions = ClassPredictions(torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="gives 2 of 3 images NaN or infinite scores"):
        predictions.add(torch.tensor([[0.5, 0.5], [float("nan"), 0.5], [float("inf"), 0.0]]))
