import json
import logging
import math
import re
from collections import Counter
from itertools import islice

import datasets
import pytest
import torch
from tiny_trainer import TRANSFORM, losses, model_for, trainer_for
from torch import nn

from lejepa_hf import (
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
)
from lejepa_hf.data.batch import PROBE_LABELS
from lejepa_hf.data.errors import StreamInterrupted, TooManyBrokenImages
from lejepa_hf.data.photometric import apply_photometric
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows
from lejepa_hf.training.checkpoints import complete_checkpoints


def test_trains_saves_and_logs(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=40, learning_rate=3e-3)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 41))
    assert sum(row["loss"] for row in steps[-5:]) < 0.8 * sum(row["loss"] for row in steps[:5])
    for row in steps:
        assert row["loss"] == pytest.approx(0.95 * row["prediction_loss"] + 0.05 * row["sigreg_loss"], rel=1e-4)
        assert row["images_per_second"] > 0 and 0 <= row["data_wait_fraction"] <= 1
    assert steps[-1]["epoch"] == pytest.approx(40 * 8 / 1347, rel=1e-6)
    assert {path.suffix for path in (tmp_path / "checkpoint-39").glob("model*")} == {".safetensors"}


def test_resume_among_the_arguments_is_honoured_from_python(tmp_path, tiny_resnet):
    with pytest.raises(ValueError, match="`resume` '/nowhere/checkpoint-3' is not a complete checkpoint"):
        trainer_for(tmp_path, model_for(tiny_resnet), resume="/nowhere/checkpoint-3").train()
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=3, resume="auto").train()
    resumed = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=4, resume="auto")
    resumed.train()
    assert [step for step, _ in losses(resumed)] == [1, 2, 3, 4]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2, 3, 3, 4, 4]


def test_equals_a_bare_loop(tmp_path, tiny_resnet):
    """Same rows, views, directions, optimiser and schedule: the Trainer must add nothing to the mathematics."""
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=4, learning_rate=1e-2, weight_decay=0.1)
    trainer.train()

    model = model_for(tiny_resnet).train()
    decays = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )
    rows, collate = iter(EndlessRows(load_source("digits").dataset, 8, seed=0)), MultiCropCollator(TRANSFORM)
    warmup = 1
    for step in range(4):
        rate = (
            step / warmup
            if step < warmup
            else 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (4 - warmup)))
        )
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate
        batch = collate([next(rows) for _ in range(8)])
        output = model(**apply_photometric(batch, TRANSFORM), step=step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        assert losses(trainer)[step][1] == pytest.approx(output.loss.item(), rel=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, trainer.model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_classes_are_drawn_alike_from_python(tmp_path, tiny_resnet):
    few = load_source("digits").dataset.select(range(200))
    labels = few["label"]
    few = few.select([number for number in range(200) if labels[number] < 2 or number % 9 == 0])
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), few, label_column="label", class_balanced=True)
    drawn: Counter[int] = Counter()
    for batch in islice(trainer.get_train_dataloader(), 40):
        drawn.update(batch[PROBE_LABELS].tolist())
    assert sum(drawn.values()) == 320 and set(drawn) == set(few["label"])
    assert max(drawn.values()) < 2.5 * min(drawn.values()) and max(Counter(few["label"]).values()) >= 10
    with pytest.raises(ValueError, match="`class_balanced` needs labels"):
        trainer_for(tmp_path, model_for(tiny_resnet), few, class_balanced=True)


def test_accumulation_is_the_mean_of_the_micro_batches(tmp_path, tiny_vit):
    """Two traps of the base class: a loss multiplied by the steps of accumulation, and labels that switch it on."""
    images = load_source("digits").dataset

    class WithLabels(MultiCropCollator):
        def __call__(self, examples):
            return super().__call__(examples) | {"labels": torch.tensor([row["label"] for row in examples])}

    def first_step(folder, collator, **kwargs):
        model = model_for(tiny_vit, projector_norm="layer", num_slices=8)
        args = LeJEPATrainingArguments(
            output_dir=str(folder), use_cpu=True, disable_tqdm=True, max_steps=1, logging_steps=1, optim="sgd", seed=0,
            learning_rate=1.0, warmup_steps=0, weight_decay=0.0, save_strategy="no", **kwargs,
        )  # fmt: skip
        before = [p.detach().clone() for p in model.parameters()]
        trainer = LeJEPATrainer(model=model, args=args, train_dataset=images, data_collator=collator)
        trainer.compute_loss = lambda m, inputs, **kw: LeJEPATrainer.compute_loss(
            trainer, m, {k: v for k, v in inputs.items() if k != "labels"}, **kw
        )
        trainer.train()
        change = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
        return losses(trainer)[0][1], change

    loss, change = first_step(
        tmp_path / "a", WithLabels(TRANSFORM), per_device_train_batch_size=4, gradient_accumulation_steps=4
    )
    model = model_for(tiny_vit, projector_norm="layer", num_slices=8).train()
    rows, collate = iter(EndlessRows(images, 4, seed=0)), MultiCropCollator(TRANSFORM)
    expected = 0.0
    for _ in range(4):
        batch = collate([next(rows) for _ in range(4)])
        part = model(**apply_photometric(batch, TRANSFORM), step=0).loss / 4
        part.backward()
        expected += part.item()
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(change, [p.grad for p in model.parameters()], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("backbone", "workers"), [("resnet", 0), pytest.param("vit", 2, marks=pytest.mark.slow)])
def test_resume_is_exact_to_the_last_bit(tmp_path, tiny_resnet, tiny_vit, backbone, workers):
    network = {"resnet": tiny_resnet, "vit": tiny_vit}[backbone] | {}
    drawn = {}
    if backbone == "vit":
        network |= {"hidden_dropout_prob": 0.1}
        drawn = {"token_drop_rate": 0.5}
    whole = trainer_for(tmp_path / "whole", model_for(network, **drawn), dataloader_num_workers=workers)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    again = trainer_for(tmp_path / "again", model_for(network, **drawn), dataloader_num_workers=workers)
    nn.init.normal_(next(again.model.parameters()))  # whatever it starts from must not matter
    again.train(resume_from_checkpoint=checkpoint)
    assert losses(again)[-3:] == losses(whole)[-3:]
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_of_a_stream(tmp_path, tiny_resnet, workers):
    parquet = tmp_path / "shards"
    parquet.mkdir()
    images = load_source("digits").dataset.select(range(40))
    for shard in range(4):
        images.shard(4, shard).to_parquet(parquet / f"{shard}.parquet")

    def run(folder, **kwargs):
        stream = load_source(f"{parquet}/*.parquet", streaming=True).dataset
        return trainer_for(
            folder, model_for(tiny_resnet), stream, max_steps=9, dataloader_num_workers=workers,
            shuffle_buffer_size=7, save_total_limit=None, **kwargs,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    whole.train()
    for step in (3, 6):  # within the first pass over 40 images, and behind its end
        again = run(tmp_path / f"again{step}")
        again.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        assert losses(again)[-(9 - step) :] == losses(whole)[step:]


def test_a_finished_run_takes_no_further_step(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet))
    trainer.train()
    again = trainer_for(tmp_path, model_for(tiny_resnet))
    assert again.train(resume_from_checkpoint=tmp_path / "checkpoint-6").global_step == 6
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


def test_a_checkpoint_of_another_model_is_an_error(tmp_path, tiny_resnet):
    trainer_for(tmp_path, model_for(tiny_resnet)).train()
    other = trainer_for(tmp_path, model_for(tiny_resnet, projector_dims=[16, 16, 8]))
    with pytest.raises(ValueError, match=r"other settings: `projector_dims` was \[16, 8\], is \[16, 16, 8\]\. Set"):
        other.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "resume_settings.json").unlink()  # of an earlier version, which does not say
    with pytest.raises(RuntimeError, match="does not fit the model"):
        other.train(resume_from_checkpoint=tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "`seed` was 0, is 1"),
        ({"per_device_train_batch_size": 4}, "`global_batch` was 8, is 4"),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "settings: `images_per_statistic` was 8, is 4. Set",
        ),
    ],
)
def test_what_must_not_change_is_refused_on_resume(tmp_path, tiny_resnet, changed, message):
    trainer_for(tmp_path, model_for(tiny_resnet), max_steps=3).train()
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer_for(tmp_path, model_for(tiny_resnet), **changed).train(
            resume_from_checkpoint=tmp_path / "checkpoint-3"
        )


def test_weight_decay_spares_norms_and_biases(tmp_path, tiny_vit, tiny_resnet):
    for backbone in (tiny_vit, tiny_resnet):
        model = model_for(backbone)
        decayed = set(trainer_for(tmp_path, model).get_decay_parameter_names(model))
        for module_name, module in model.named_modules():
            for name, _ in module.named_parameters(prefix=module_name, recurse=False):
                spared = name.endswith("bias") or isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)
                assert (name in decayed) != spared, name


def test_nan_stops_at_that_step_and_names_component_and_checkpoint(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), save_steps=2)
    forward = trainer.model.forward

    def poisoned(*args, step, **kwargs):
        if step == 4:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(float("nan"))
        return forward(*args, step=step, **kwargs)

    trainer.model.forward = poisoned
    with pytest.raises(
        FloatingPointError, match=r"Step 4: `prediction_loss` is nan, `sigreg_loss` is nan.*checkpoint-4"
    ):
        trainer.train()
    assert trainer.state.global_step == 4
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-2"]


def test_no_token_and_no_pickled_arguments_reach_the_run_folder(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=3, hub_token="hf_secret")
    trainer.train()
    trainer.save_model(str(tmp_path / "pretraining"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(b"hf_secret" in path.read_bytes() for path in files)
    assert not any(path.name == "training_args.bin" for path in files)
    assert trainer.args.hub_token == "hf_secret"


def test_epochs_become_steps(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), max_steps=-1, num_train_epochs=2)
    assert trainer.args.max_steps == math.ceil(2 * 1347 / 8)


def test_too_little_data_is_refused_before_training(tmp_path, tiny_resnet):
    images = load_source("digits").dataset
    with pytest.raises(ValueError, match="4 images, fewer than one global batch of 8"):
        trainer_for(tmp_path, model_for(tiny_resnet), images.select(range(4)))
    with pytest.raises(ValueError, match="`max_steps` is needed"):
        trainer_for(tmp_path, model_for(tiny_resnet), images.to_iterable_dataset(), max_steps=-1)


def test_bf16_keeps_the_statistic_in_fp32(tmp_path, tiny_vit):
    trainer = trainer_for(tmp_path, model_for(tiny_vit), max_steps=2, bf16=True)
    seen = []
    forward = trainer.model.sigreg.forward
    trainer.model.sigreg.forward = lambda z, step: seen.append((z.dtype, out := forward(z, step))) or out
    trainer.train()
    assert seen[0][0] is torch.bfloat16 and seen[0][1].dtype is torch.float32
    assert all(math.isfinite(loss) for _, loss in losses(trainer))


def with_broken(number: int):
    """Digits of which every `number`-th is no image."""
    rows = [row["image"] for row in load_source("digits").dataset]
    images = [{"bytes": b"torn" if i % number == 0 else row["bytes"], "path": None} for i, row in enumerate(rows)]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({"image": images}, features)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_broken_images_cost_images_and_are_told(tmp_path, tiny_resnet, caplog, workers):
    settings = {"dataloader_num_workers": workers, "max_bad_fraction": 0.5, "save_total_limit": None}
    whole = trainer_for(tmp_path / "whole", model_for(tiny_resnet), with_broken(4), max_steps=9, **settings)
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        whole.train()
    rows = [row for row in whole.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 10)) and rows[-1]["broken_images"] > 9
    named = [record.message for record in caplog.records if "broken image replaced" in record.message]
    assert len(named) == min(20, rows[-1]["broken_images"])
    assert re.search(r"row \d*[02468]: UnidentifiedImageError", named[0])
    again = trainer_for(tmp_path / "again", model_for(tiny_resnet), with_broken(4), max_steps=9, **settings)
    again.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-6")
    assert losses(again)[-3:] == losses(whole)[-3:]
    assert [row for row in again.state.log_history if "loss" in row][-1]["broken_images"] == rows[-1]["broken_images"]


def test_too_many_broken_images_stop_the_run(tmp_path, tiny_resnet):
    trainer = trainer_for(tmp_path, model_for(tiny_resnet), with_broken(4), max_steps=50, max_bad_fraction=0.002)
    with pytest.raises(TooManyBrokenImages, match=r"3 of \d+ images are broken, more than `max_bad_fraction` 0.002"):
        trainer.train()
    assert trainer.state.global_step < 5


@pytest.mark.slow
def test_a_stream_that_is_lost_leaves_a_checkpoint_and_goes_on_from_there(tmp_path, tiny_resnet, monkeypatch):
    monkeypatch.setattr("lejepa_hf.data.network._FIRST_WAIT", 0.001)
    reachable = {"rows": 1000}

    def rows():
        for number, row in enumerate(load_source("digits").dataset.select(range(96))):
            if number >= reachable["rows"]:
                raise ConnectionResetError("lost")
            yield row

    def run(folder, **kwargs):
        stream = datasets.IterableDataset.from_generator(rows, features=load_source("digits").dataset.features)
        stream = stream.cast_column("image", datasets.Image(decode=False))
        return trainer_for(
            folder, model_for(tiny_resnet), stream, max_steps=15, save_steps=100, shuffle_buffer_size=8,
            dataloader_num_workers=0, max_network_retries=1, **kwargs,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    whole.train()
    reachable["rows"] = 64  # rows are read 32 at a time, so that some are at hand when it breaks
    torn = run(tmp_path / "torn")
    with pytest.raises(StreamInterrupted, match=r"1 retries did not bring it back .*--resume"):
        torn.train()
    (checkpoint,) = complete_checkpoints(tmp_path / "torn")
    assert checkpoint.name == f"checkpoint-{torn.state.global_step}" and 2 < torn.state.global_step < 12
    reachable["rows"] = 1000
    again = run(tmp_path / "torn")
    again.train(resume_from_checkpoint=checkpoint)
    assert losses(again) == losses(whole)


def test_a_checkpoint_without_positions_is_refused(tmp_path, tiny_resnet):
    trainer_for(tmp_path, model_for(tiny_resnet)).train()
    (tmp_path / "checkpoint-3" / "data_position_0.json").unlink()
    with pytest.raises(ValueError, match="data_position_0.json is missing"):
        trainer_for(tmp_path, model_for(tiny_resnet)).train(resume_from_checkpoint=tmp_path / "checkpoint-3")


def test_searches_within_one_trainer_are_refused(tmp_path, tiny_resnet):
    given = vars(trainer_for(tmp_path, model_for(tiny_resnet)))
    with pytest.raises(ValueError, match="`model_init` must be None, .* build a Trainer for each trial"):
        LeJEPATrainer(args=given["args"], train_dataset=given["train_dataset"], model_init=lambda trial: None)
    with pytest.raises(TypeError, match="`model` must be a LeJEPAForPreTraining, got NoneType"):
        LeJEPATrainer(args=given["args"], train_dataset=given["train_dataset"])
    with pytest.raises(NotImplementedError, match="an optuna study"):
        trainer_for(tmp_path, model_for(tiny_resnet)).hyperparameter_search(n_trials=2)


def test_recomputing_what_cannot_be_recomputed_is_refused_at_once(tmp_path, tiny_resnet, tiny_vit):
    with pytest.raises(ValueError, match="`activation_checkpointing` is not possible with a resnet backbone: leave"):
        trainer_for(tmp_path, model_for(tiny_resnet), gradient_checkpointing=True)
    timm = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224"}
    timm["model_args"] = {"depth": 1, "embed_dim": 48, "img_size": 16, "patch_size": 4}
    for name, backbone in (("vit", tiny_vit), ("timm", timm)):
        trainer_for(tmp_path / name, model_for(backbone), gradient_checkpointing=True, max_steps=2).train()
