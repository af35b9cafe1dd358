import logging

import pytest
import torch
from monitored_run import RESNET, monitored, probe_of, rows
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from lejepa_hf.training.callbacks.monitor import MonitoredRun
from lejepa_hf.training.callbacks.online_probe import OnlineProbe


def batch(seed: int, num_images: int = 40, dim: int = 8, num_classes: int = 3):
    """Three views of images whose class can be read off their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    noise = torch.randn(3, num_images, dim, generator=generator)
    return 2 * F.one_hot(labels, dim) + 0.3 * noise, labels


def test_learns_and_reports_since_the_last_row():
    probe = OnlineProbe(8, 3, learning_rate=0.1)
    probe.observe(*batch(0))
    first = probe.measure()
    assert first["online_probe_loss"] == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-5)  # it starts at zero
    for seed in range(1, 40):
        probe.observe(*batch(seed))
    probe.measure()
    probe.observe(*batch(99))
    assert probe.measure()["online_probe_top1"] > 0.95
    assert probe.measure() == {}


def test_a_step_is_that_of_plain_training():
    embeddings, labels = batch(0)
    probe = OnlineProbe(8, 3)
    plain = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))
    nn.init.zeros_(plain[1].weight), nn.init.zeros_(plain[1].bias)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=1e-7)
    for _ in range(3):
        probe.observe(embeddings, labels)
        optimizer.zero_grad()
        F.cross_entropy(plain(embeddings.flatten(0, 1)), labels.repeat(3)).backward()
        optimizer.step()
    for own, expected in zip(probe.probe.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("images", [(40, 40, 40), (40, 2, 40)])
def test_a_step_is_that_of_plain_training_with_large_weights_and_batches_of_any_size(images):
    """Weight decay shows on large weights; what a batch is divided by shows among batches of other sizes."""
    probe, plain = OnlineProbe(8, 3), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))
    with torch.no_grad():
        plain[1].weight.copy_(5 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    probe.probe.load_state_dict(plain.state_dict())
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=1e-7)
    for seed, number in enumerate(images):
        embeddings, labels = batch(seed, num_images=number)
        probe.observe(embeddings, labels)
        optimizer.zero_grad()
        F.cross_entropy(plain(embeddings.flatten(0, 1)), labels.repeat(3)).backward()
        optimizer.step()
    for own, expected in zip(probe.probe.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=2e-5)


def test_images_without_a_label_are_left_out():
    embeddings, labels = batch(0)
    probe, reference = OnlineProbe(8, 3), OnlineProbe(8, 3)
    probe.observe(embeddings, torch.cat([labels[:20], torch.tensor([-1, 3] * 10)]))
    reference.observe(embeddings[:, :20], labels[:20])
    torch.testing.assert_close(probe.probe.state_dict(), reference.probe.state_dict())
    assert probe.measure() == pytest.approx(reference.measure())
    probe.observe(embeddings, torch.full((40,), -1))
    probe.observe(embeddings, None)
    assert probe.measure() == {}


def test_neither_the_encoder_nor_the_global_random_state_is_touched():
    embeddings, labels = batch(0)
    embeddings.requires_grad_(True)
    before = torch.get_rng_state()
    probe = OnlineProbe(8, 3)
    probe.observe(embeddings, labels)
    assert embeddings.grad is None and torch.equal(torch.get_rng_state(), before)


def test_held_out_images_are_classified_and_change_nothing(tmp_path):
    embeddings = torch.tensor([[5.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 5.0], [5.0, 1.0, 1.0], [1.0, 5.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 0, 3])  # the third is wrong, and training has no class 3
    probe = OnlineProbe(3, 3)
    probe.observe(embeddings[None], torch.full((5,), -1))
    assert probe.measure_held_out(embeddings, labels) == {}  # still at zero
    probe.observe(embeddings[None], torch.tensor([1, 2, 0, 1, 2]))
    with torch.no_grad():
        probe.probe[1].weight.copy_(torch.eye(3))
        probe.probe[1].bias.zero_()
    probe.save_state(tmp_path)
    random, saved = torch.get_rng_state(), load_file(tmp_path / "online_probe.safetensors")
    found = probe.measure_held_out(embeddings, labels)
    assert {name: value.tolist() for name, value in found.items()} == {
        "online_probe_top1": [True, True, False, True, False]
    }
    probe.save_state(tmp_path)
    after = load_file(tmp_path / "online_probe.safetensors")
    assert after.keys() == saved.keys() and all(torch.equal(after[name], value) for name, value in saved.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_fewer_than_two_classes():
    with pytest.raises(ValueError, match="`num_classes` must be at least 2, got 1"):
        OnlineProbe(8, 1)


def test_a_run_without_two_classes_has_no_probe():
    for num_classes in (None, 1):
        run = MonitoredRun(None, 2, num_classes, images_per_statistic=8, device=torch.device("cpu"))
        assert OnlineProbe.for_run(run) is None


def test_a_checkpoint_continues_to_the_last_bit(tmp_path, caplog):
    whole = OnlineProbe(8, 3)
    for seed in range(6):
        if seed == 3:
            whole.save_state(tmp_path)
            continued = OnlineProbe(8, 3)
            continued.load_state(tmp_path)
        if seed >= 3:
            continued.observe(*batch(seed))
        whole.observe(*batch(seed))
    expected = whole.probe.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in continued.probe.state_dict().items())
    assert continued.measure() == whole.measure()
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        OnlineProbe(8, 4).load_state(tmp_path)  # another number of classes
        OnlineProbe(8, 3).load_state(tmp_path / "nothing")
    assert [record.message.split(" has no ")[1] for record in caplog.records] == [
        "state of this online probe: it starts from zero."
    ] * 2


def test_a_resumed_run_has_the_same_probe(tmp_path):
    settings = {"logging_steps": 2, "per_device_train_batch_size": 16}
    whole = monitored(tmp_path / "whole", **settings)
    whole.train()
    again = monitored(tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-3")
    expected = probe_of(whole).probe.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in probe_of(again).probe.state_dict().items())
    names = ("step", "online_probe_loss", "online_probe_top1")
    found, wanted = ([[row[name] for name in names] for row in rows(t, names[1])[-2:]] for t in (again, whole))
    assert found == wanted and wanted[0][0] == 4  # a window across the checkpoint
    names = ("step", "eval_online_probe_top1")
    found, wanted = ([[row[name] for name in names] for row in rows(t, names[1])] for t in (again, whole))
    assert [step for step, _ in wanted] == [2, 4, 6] and found[-2:] == wanted[-2:]


@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_labels_never_reach_the_model(tmp_path, exact):
    trainer = monitored(
        tmp_path, eval_strategy="no", gradient_accumulation_steps=2, exact_accumulation=exact, max_steps=2,
        model={"projector_norm": "layer"},
    )  # fmt: skip
    given, seen = [], []
    forward, observe = trainer.model.forward, probe_of(trainer).observe
    trainer.model.forward = lambda *args, **kwargs: given.append(set(kwargs)) or forward(*args, **kwargs)
    probe_of(trainer).observe = lambda embeddings, labels: seen.append(labels) or observe(embeddings, labels)
    trainer.train()
    known = {"global_views", "local_views", "step", "sums_only", "batch_sums", "num_parts"}
    assert given and set().union(*given) <= known
    assert len(seen) == 4 and all(labels.shape == (8,) for labels in seen)  # each micro-batch once
    alone = monitored(tmp_path / "alone", eval_strategy="no", gradient_accumulation_steps=2, exact_accumulation=exact,
                      max_steps=2, model={"projector_norm": "layer"}, label_column=None)  # fmt: skip
    alone.train()
    expected = alone.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.slow
def test_it_learns_the_labels_of_the_images_it_is_shown(tmp_path):
    network = RESNET | {"embedding_size": 16, "hidden_sizes": [32, 64]}
    settings = {"max_steps": 100, "learning_rate": 2e-3, "per_device_train_batch_size": 32}
    trainer = monitored(tmp_path, network, eval_strategy="no", save_strategy="no", **settings)
    trainer.train()
    found = [row["online_probe_top1"] for row in rows(trainer, "online_probe_top1")]
    assert sum(found[-30:]) / 30 > 0.15  # 960 images of ten classes; wrong labels would leave it at 0.10 +- 0.01
