from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lejepa_hf import (
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
    MultiCropTransform,
    export_encoder,
)
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.encoder_average import load_average

SCRIPT = Path(__file__).parents[1] / "two_process_average.py"
FILE = "encoder_average.safetensors"


def trainer_for(folder, backbone, ema_decay=0.25, **kwargs):
    torch.manual_seed(0)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[8], num_slices=8))
    settings = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2} | kwargs
    args = LeJEPATrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, dataloader_num_workers=0, ema_decay=ema_decay,
        **settings,
    )  # fmt: skip
    views = MultiCropTransform(num_local_views=1, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
    dataset = load_source("digits").dataset
    return LeJEPATrainer(model=model, args=args, train_dataset=dataset, data_collator=MultiCropCollator(views))


class Recorded(TrainerCallback):
    """The encoder's weights before training and after every step."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights = [{name: value.clone() for name, value in model.encoder.state_dict().items()}]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: value.clone() for name, value in model.encoder.state_dict().items()})


def test_average_of_the_weights_of_all_steps(tmp_path, tiny_resnet):
    trainer, recorded = trainer_for(tmp_path, tiny_resnet, gradient_accumulation_steps=2), Recorded()
    trainer.add_callback(recorded)
    trainer.train()
    expected = recorded.weights[0]
    for step, weights in enumerate(recorded.weights[1:], start=1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 0.25: both branches
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    assert len(recorded.weights) == 5
    found = load_file(tmp_path / "checkpoint-4" / FILE)
    assert found.keys() == {name for name, _ in trainer.model.encoder.named_parameters()}
    torch.testing.assert_close(found, {name: expected[name] for name in found})
    last = recorded.weights[-1]
    assert max((found[name] - last[name]).abs().max() for name in found) > 1e-3
    # An export from a checkpoint has these weights, and the raw encoder's running means.
    folder = export_encoder(tmp_path / "checkpoint-4", averaged=True)
    exported = load_file(folder / "model.safetensors")
    for name, value in exported.items():
        assert torch.equal(value, found.get(f"backbone.{name}", last[f"backbone.{name}"])), name


def test_training_is_the_same_with_and_without(tmp_path, tiny_vit):
    plain, averaged = (trainer_for(tmp_path / str(decay), tiny_vit, decay) for decay in (0.0, 0.9))
    plain.train(), averaged.train()
    assert plain.encoder_average is None and not (tmp_path / "0.0" / "checkpoint-4" / FILE).exists()
    expected = plain.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in averaged.model.state_dict().items())


def test_resume_is_exact_to_the_last_bit(tmp_path, tiny_resnet):
    trainer_for(tmp_path / "whole", tiny_resnet).train()
    expected = load_file(tmp_path / "whole" / "checkpoint-4" / FILE)
    again = trainer_for(tmp_path / "again", tiny_resnet)
    again.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-2")
    finished = trainer_for(tmp_path / "finished", tiny_resnet)
    finished.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-4")
    for trainer in (again, finished):
        trainer.encoder_average.save_state(tmp_path)
        found = load_file(tmp_path / FILE)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_average_may_begin_at_a_checkpoint(tmp_path, tiny_resnet, caplog):
    trainer_for(tmp_path, tiny_resnet, ema_decay=0.0).train()
    later, recorded = trainer_for(tmp_path / "later", tiny_resnet, ema_decay=0.9, max_steps=3), Recorded()
    later.add_callback(recorded)
    with caplog.at_level("WARNING", "lejepa_hf"):
        later.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert "`ema_decay`" in caplog.text and "no averaged encoder" in caplog.text
    later.encoder_average.save_state(tmp_path)
    before, after = recorded.weights
    for name, value in load_file(tmp_path / FILE).items():
        torch.testing.assert_close(value, 4 / 13 * before[name] + 9 / 13 * after[name])


def test_a_damaged_average_is_named(tmp_path, tiny_resnet):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(ValueError, match=rf"cannot be read \({FILE} is damaged .*choose another checkpoint"):
        load_average(model.encoder, tmp_path)


def test_sharded_parameters(two_processes):
    assert two_processes(SCRIPT).count("agrees") == 2


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range(tmp_path, decay):
    with pytest.raises(ValueError, match=rf"`ema_decay` must be in \[0, 1\), got {decay}: 0 for no average"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, ema_decay=decay)
