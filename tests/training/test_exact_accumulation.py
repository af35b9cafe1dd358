"""Two passes over micro-batches against one large batch, through the Trainer."""

import logging
from pathlib import Path

import pytest
import torch

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator
from lejepa_hf.data.multi_crop import MultiCropTransform

SCRIPT = Path(__file__).parents[1] / "two_process_accumulation.py"


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        from PIL import Image

        pixels = torch.randint(0, 256, (24, 24, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        return {"image": Image.fromarray(pixels.numpy())}


def train(folder, backbone, batch, accumulation, exact=False, norm="layer", steps=3, **config):
    torch.manual_seed(0)
    config = LeJEPAConfig(
        backbone_config=backbone, projector_dims=[24, 8], projector_norm=norm, num_slices=32, sigreg_weight=0.3,
        **config,
    )  # fmt: skip
    model = LeJEPAForPreTraining(config)
    args = LeJEPATrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        exact_accumulation=exact, max_steps=steps, logging_steps=1, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True, optim="sgd", learning_rate=0.05, weight_decay=0.0,
    )  # fmt: skip
    views = MultiCropTransform(global_crop_size=16, local_crop_size=8, num_local_views=2, blur_kernel_size=3)
    trainer = LeJEPATrainer(model=model, args=args, train_dataset=Rows(), data_collator=MultiCropCollator(views))
    trainer.train()
    return trainer


def difference(one, other):
    """Relative, over all parameters."""
    pairs = list(zip(one.model.parameters(), other.model.parameters(), strict=True))
    distance = sum((a - b).square().sum() for a, b in pairs).sqrt()
    return (distance / sum(a.square().sum() for a, _ in pairs).sqrt()).item()


def losses(trainer):
    return [(row["loss"], row["sigreg_loss"]) for row in trainer.state.log_history if "sigreg_loss" in row]


@pytest.fixture
def backbone(tiny_vit):
    return tiny_vit | {"initializer_range": 0.3}


def test_micro_batches_are_one_large_batch(tmp_path, backbone):
    whole = train(tmp_path, backbone, batch=8, accumulation=1)
    parts = train(tmp_path, backbone, batch=2, accumulation=4, exact=True)
    plain = train(tmp_path, backbone, batch=2, accumulation=4)
    assert torch.tensor(losses(parts)) == pytest.approx(torch.tensor(losses(whole)), rel=1e-5)
    assert difference(whole, parts) < 1e-6
    assert difference(whole, plain) > 1e-3  # plain accumulation is something else


def test_micro_batches_of_one_image(tmp_path, backbone):
    whole = train(tmp_path, backbone, batch=3, accumulation=1, steps=2)
    parts = train(tmp_path, backbone, batch=1, accumulation=3, exact=True, steps=2)
    assert difference(whole, parts) < 1e-6


@pytest.mark.parametrize("drawn", [{"hidden_dropout_prob": 0.3}, {"token_drop_rate": 0.5}, {"drop_path_rate": 0.5}])
def test_both_passes_draw_the_same(tmp_path, backbone, monkeypatch, drawn):
    in_backbone = {key: value for key, value in drawn.items() if key == "hidden_dropout_prob"}
    in_config = {key: value for key, value in drawn.items() if key not in in_backbone}
    seen = []
    forward = LeJEPAForPreTraining.forward

    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if kwargs.get("sums_only"):
            seen.append(output.sums)
        else:
            from lejepa_hf.losses.objective import objective_sums

            again = objective_sums(output.projections.detach(), args[0].shape[1] if args else 2, self.sigreg,
                                   kwargs["step"])  # fmt: skip
            seen.append(again)
        return output

    monkeypatch.setattr(LeJEPAForPreTraining, "forward", watched)
    train(tmp_path, backbone | in_backbone, batch=4, accumulation=2, exact=True, steps=2, **in_config)
    assert len(seen) == 8  # two steps: two micro-batches, twice
    for step in (seen[:4], seen[4:]):
        torch.testing.assert_close(step[0], step[2])
        torch.testing.assert_close(step[1], step[3])
        assert (step[0] - step[1]).abs().max() > 1e-3


def test_running_means_move_once_a_micro_batch(tmp_path, tiny_resnet):
    plain = train(tmp_path, tiny_resnet, batch=4, accumulation=2, steps=1, norm="batch")
    exact = train(tmp_path, tiny_resnet, batch=4, accumulation=2, exact=True, steps=1, norm="batch")
    for (name, one), (_, other) in zip(plain.model.named_buffers(), exact.model.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_says_that_batch_norm_is_not_exact(tmp_path, tiny_resnet, caplog):
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        train(tmp_path, tiny_resnet, batch=4, accumulation=2, exact=True, steps=1)
    assert "batch norm" in caplog.text and "encoder.backbone" in caplog.text


def test_statistics_that_are_no_sums_are_refused(tmp_path, backbone):
    with pytest.raises(ValueError, match="`exact_accumulation`.*'cramer_von_mises'"):
        train(tmp_path, backbone, batch=4, accumulation=2, exact=True, statistic="cramer_von_mises")


def test_composes_with_data_parallelism(two_processes):
    assert two_processes(SCRIPT).count("agrees") == 2
