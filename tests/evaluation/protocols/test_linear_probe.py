import math
import re
import sys

import numpy as np
import pytest
import torch
from processes import run_script
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols import linear_probe as module
from lejepa_hf.evaluation.protocols.linear_probe import Linear

linear_probe = Linear().run


def toy(num_classes: int, rows: int = 400, spread: float = 1.0, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % num_classes
    centres = 5 * torch.randn(num_classes, 16, generator=torch.Generator().manual_seed(99))
    return LabelledEmbeddings(centres[labels] + spread * torch.randn(rows, 16, generator=generator), labels)


def test_separable_classes_are_separated():
    results = linear_probe(toy(10), toy(10, seed=1), num_steps=300)
    assert results["eval_linear_top1"] > 0.99
    assert results["eval_linear_top5"] > 0.99


@pytest.mark.slow
def test_is_as_good_as_logistic_regression_on_pixels():
    pixels, labels = load_digits(return_X_y=True)
    expected = LogisticRegression(max_iter=2000).fit(pixels[:1000], labels[:1000]).score(pixels[1000:], labels[1000:])
    pixels, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels)
    results = linear_probe(
        LabelledEmbeddings(pixels[:1000], labels[:1000]), LabelledEmbeddings(pixels[1000:], labels[1000:])
    )
    assert results["eval_linear_top1"] == pytest.approx(expected, abs=0.03)
    assert results["eval_linear_top1"] <= results["eval_linear_top5"] <= 1


def test_numbers_of_classes_may_be_far_apart():
    """The probe has as many outputs as there are classes, not as their largest number."""
    train, test = toy(10), toy(10, seed=1)
    apart = [LabelledEmbeddings(part.embeddings, part.labels * 50_000_000) for part in (train, test)]
    assert linear_probe(*apart, num_steps=50) == linear_probe(train, test, num_steps=50)


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
    assert list(linear_probe(toy(3), toy(3, seed=1), num_steps=20)) == ["eval_linear_top1", "eval_linear_top1_ci95"]


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


def test_the_rate_is_chosen_by_training_images_and_fitted_on_all_of_them(caplog):
    caplog.set_level("INFO", "lejepa_hf")
    train, test = toy(10, spread=4.0), toy(10, spread=4.0, seed=1)
    rates = (1e-6, 1e-2, 100.0)
    swept = linear_probe(train, test, rates, num_steps=100)
    said = re.search(r"learning rate (\S+), best of 3 on 40 training images", caplog.text)
    alone = {rate: linear_probe(train, test, (rate,), num_steps=100) for rate in rates}
    assert swept == alone[float(said[1])]
    assert len({tuple(results.values()) for results in alone.values()}) == 3
    test.labels = test.labels.flip(0)  # what test images say changes no choice
    linear_probe(train, test, rates, num_steps=100)
    assert caplog.text.count(said[0]) == 2


def test_features_of_the_probe_are_used():
    train, test = toy(10), toy(10, seed=1)
    blind = [
        LabelledEmbeddings(torch.randn_like(part.embeddings), part.labels, part.embeddings) for part in (train, test)
    ]
    assert linear_probe(*blind, num_steps=100) == linear_probe(train, test, num_steps=100)


def test_weights_hardly_decay():
    """Of a single class the loss is 0 and has no gradient, so that only weight decay could change LayerNorm's ones."""
    images = LabelledEmbeddings(torch.randn(50, 8), torch.zeros(50, dtype=torch.long))
    (probe,) = module._fit(images, torch.arange(50), [0.1], 1, 200, 10)
    decay = 1 - probe[0].weight.min().item()
    assert 0 < decay < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_features_on_disk_are_not_read_at_once(tmp_path):
    """Half a gigabyte of them, of which the steps need little: the memory of the process hardly grows."""
    code = """
import resource, sys
import numpy as np, torch
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.linear_probe import Linear
torch.set_num_threads(1)
file = np.memmap(sys.argv[1], np.float32, "w+", shape=(500_000, 256))
file[::2, 0] = 1
images = LabelledEmbeddings(torch.from_numpy(file), torch.arange(len(file)) % 2)
few = LabelledEmbeddings(images.embeddings[:100], images.labels[:100])
Linear().run(few, few, num_steps=2)
def own_memory():  # without what is mapped from files
    resident, shared = map(int, open("/proc/self/statm").read().split()[1:3])
    return (resident - shared) * resource.getpagesize()
before = own_memory()
result = Linear().run(images, few, num_steps=30)
assert result["eval_linear_top1"] == 1, result
assert own_memory() - before < 100e6, own_memory() - before
"""
    script, output = tmp_path / "script.py", tmp_path / "output.txt"
    script.write_text(code, encoding="utf-8")
    assert run_script(script, [tmp_path / "features"], output, processes=1) == [0], output.read_text(encoding="utf-8")


def several(rows: int, seed: int) -> LabelledEmbeddings:
    """Images that may be of three classes, each of them shifts one dimension."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, 3, generator=generator) < 0.4).to(torch.uint8)
    noise = torch.randn(rows, 6, generator=generator)
    return LabelledEmbeddings(noise + 1.5 * torch.cat([labels, labels], 1), labels, class_names=["a", "b", "c"])


def scores_by_hand(train: LabelledEmbeddings, test: LabelledEmbeddings, loss) -> np.ndarray:
    """What 60 steps of the probe make of test images, with a learning rate of 0.03; `loss` of scores and labels."""
    scale = train.embeddings.std()
    probe = torch.nn.Sequential(torch.nn.LayerNorm(6), torch.nn.Linear(6, 3))
    torch.nn.init.zeros_(probe[1].weight), torch.nn.init.zeros_(probe[1].bias)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=3e-2, weight_decay=1e-6)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        rate = step / 6 if step < 6 else (1 + math.cos(math.pi * (step - 6) / 54)) / 2
        optimizer.param_groups[0]["lr"] = 3e-2 * rate
        rows = torch.randint(200, (200,), generator=generator)
        optimizer.zero_grad()
        loss(probe(train.embeddings[rows] / scale), train.labels[rows]).backward()
        optimizer.step()
    return probe(test.embeddings / scale).detach().numpy()


def test_multi_label_equals_a_fit_of_binary_outputs_by_hand():
    train, test = several(200, 0), several(90, 1)
    found = linear_probe(train, test, learning_rates=(3e-2,), num_steps=60)
    scores = scores_by_hand(
        train, test, lambda scores, labels: torch.nn.functional.binary_cross_entropy(scores.sigmoid(), labels.float())
    )
    expected = average_precision_score(test.labels.numpy(), scores, average="macro")
    assert found["eval_linear_map"] == pytest.approx(expected, abs=1e-4)
    assert found["eval_linear_auroc"] == pytest.approx(roc_auc_score(test.labels.numpy(), scores), abs=1e-4)
    assert 0.7 < expected < 1 and list(found) == [
        "eval_linear_map", "eval_linear_map_ci95", "eval_linear_auroc", "eval_linear_auroc_ci95"
    ]  # fmt: skip


def test_classes_equal_a_fit_by_hand():
    train, test = several(200, 0), several(90, 1)
    for of in (train, test):
        of.labels = of.labels.long().argmax(1)
    metrics = ["top1", "mean-per-class", "macro-f1", "auroc"]
    found = Linear(metrics=metrics).run(train, test, learning_rates=(3e-2,), num_steps=60)
    scores = scores_by_hand(
        train, test, lambda scores, labels: -scores.log_softmax(1)[torch.arange(200), labels].mean()
    )
    labels, guesses, shares = test.labels.numpy(), scores.argmax(1), torch.from_numpy(scores).softmax(1).numpy()
    expected = {
        "top1": (guesses == labels).mean(),
        "mean_per_class": balanced_accuracy_score(labels, guesses),
        "macro_f1": f1_score(labels, guesses, average="macro"),
        "auroc": roc_auc_score(labels, shares, multi_class="ovr"),
    }
    assert 0.5 < expected["top1"] < 1
    for name, value in expected.items():
        assert found[f"eval_linear_{name}"] == pytest.approx(value, abs=1e-4)


def test_the_sweep_of_multi_label_chooses_by_cross_entropy(caplog):
    with caplog.at_level("INFO", "lejepa_hf"):
        results = linear_probe(several(300, 0), several(200, 1), learning_rates=(1e-6, 1e-2), num_steps=100)
    assert "learning rate 0.01, best of 2 on 30" in caplog.text
    assert results["eval_linear_auroc"] > 0.8
