import json

import pytest
from PIL import Image
from test_trainer import losses, model_for, trainer_for

from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.resume_settings import compare_settings, flat_config, write_settings

OLD = {"images_per_statistic": "images SIGReg judges at once", "dataset_images": "images of the dataset"}


def test_what_does_not_change_the_network_is_left_out():
    config = {"a": {"b": 1, "dtype": "float32"}, "c": [1], "transformers_version": "5", "d": {}}
    assert flat_config(config) == {"a.b": 1, "c": [1], "d": {}}


def test_all_that_differs_is_named_and_what_may_change_is_logged(tmp_path, caplog):
    write_settings(tmp_path, {"seed": 0, "views": (1, 2), "gone": 1}, {"bf16": False}, 1)
    compare_settings(tmp_path, {"seed": 0, "views": [1, 2], "new": 3}, {"bf16": True})
    assert "`bf16` was False, is True" in caplog.text
    with pytest.raises(ValueError, match=r"`seed` was 0, is 1; `views` was \[1, 2\], is \[2\]\. Set them back"):
        compare_settings(tmp_path, {"seed": 1, "views": [2]}, {})


def test_a_checkpoint_that_does_not_say_was_not_balanced(tmp_path):
    write_settings(tmp_path, {"seed": 0}, {}, 1)
    compare_settings(tmp_path, {"seed": 0, "class_balanced": False}, {})
    with pytest.raises(ValueError, match="`class_balanced` was False, is 'label'"):
        compare_settings(tmp_path, {"seed": 0, "class_balanced": "label"}, {})


def test_checkpoints_of_version_0_1_0_are_read(tmp_path, tiny_resnet):
    whole = trainer_for(tmp_path, model_for(tiny_resnet))
    whole.train()
    path = tmp_path / "checkpoint-3" / "resume_settings.json"
    content = json.loads(path.read_text())
    content["fixed"] = {OLD.get(key, key): value for key, value in content["fixed"].items()}
    assert set(OLD.values()) <= set(content["fixed"])
    path.write_text(json.dumps(content))
    again = trainer_for(tmp_path / "again", model_for(tiny_resnet))
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    assert losses(again)[-3:] == losses(whole)[-3:]
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises(ValueError, match="settings: `images_per_statistic` was 8, is 4. Set"):
        trainer_for(tmp_path, model_for(tiny_resnet), **halves).check_resume(tmp_path / "checkpoint-3")


def scans(folder, numbers):
    folder.mkdir()
    for number in numbers:
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number:03}.png")
    return folder


def test_other_images_of_the_same_number(tmp_path, tiny_resnet):
    folder = scans(tmp_path / "a", range(20))
    trainer_for(tmp_path, model_for(tiny_resnet), load_source(folder).dataset, max_steps=3).train()
    checkpoint = tmp_path / "checkpoint-3"

    def resumed(dataset):
        trainer_for(tmp_path / "again", model_for(tiny_resnet), dataset).check_resume(checkpoint)

    folder.rename(tmp_path / "moved")
    resumed(load_source(tmp_path / "moved").dataset)
    others = load_source(scans(tmp_path / "b", range(1, 21))).dataset
    with pytest.raises(ValueError, match="settings: `dataset` was 'images with the checksum .*', is 'images with the"):
        resumed(others)
    path = checkpoint / "resume_settings.json"  # of a version that did not record it
    content = json.loads(path.read_text())
    del content["fixed"]["dataset"]
    path.write_text(json.dumps(content))
    resumed(others)


def test_another_stream(tmp_path, tiny_resnet, caplog):
    digits = load_source("digits").dataset
    first, second = (digits.select(range(start, start + 400)).to_iterable_dataset(4) for start in (0, 500))
    trainer_for(tmp_path, model_for(tiny_resnet), first, max_steps=3).train()
    trainer_for(tmp_path, model_for(tiny_resnet), first).check_resume(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="settings: `stream` was 'images with the checksum"):
        trainer_for(tmp_path, model_for(tiny_resnet), second).check_resume(tmp_path / "checkpoint-3")


def test_weights_of_a_mixture(tmp_path, tiny_resnet, caplog):
    digits = load_source("digits").dataset.select_columns(["image"])
    parts = [digits.select(range(100)), digits.select(range(100, 200))]
    trainer_for(tmp_path, model_for(tiny_resnet), Mixture(parts, [1, 1]), max_steps=3).train()
    trainer_for(tmp_path, model_for(tiny_resnet), Mixture(parts, [1, 3])).check_resume(tmp_path / "checkpoint-3")
    assert "Changed since the checkpoint: `mixture_weights` was [0.5, 0.5], is [0.25, 0.75]." in caplog.text
    with pytest.raises(ValueError, match="`dataset` was"):
        trainer_for(tmp_path, model_for(tiny_resnet), Mixture(parts[::-1], [1, 1])).check_resume(
            tmp_path / "checkpoint-3"
        )
