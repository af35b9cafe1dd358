from dataclasses import replace

import datasets
import pytest
import torch
from digit_scenes import save_digit_scenes
from transformers import AutoConfig, AutoModel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.baselines import AVERAGED, ENCODER, PIXELS, UNTRAINED
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings, extract_embeddings
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels
from lejepa_hf.evaluation.evaluate_encoder import (
    evaluate_encoder,
    evaluate_with_baselines,
    format_table,
    load_encoder,
    run_protocols,
)
from lejepa_hf.evaluation.intervals import is_spread
from lejepa_hf.evaluation.labelled_sources import labelled_sources
from lejepa_hf.evaluation.protocols.few_shot import FewShot
from lejepa_hf.evaluation.protocols.knn import Knn
from lejepa_hf.hub.export import build_processor


def export(backbone: dict, folder):
    torch.manual_seed(5)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[8]))
    return export_encoder(model, folder, build_processor(16, crop_ratio=1.0))


@pytest.fixture
def resnet_folder(tiny_resnet, tmp_path):
    return export(tiny_resnet, tmp_path / "resnet")


@pytest.fixture(scope="module")
def few_digits():
    sources = []
    for split, rows in (("train", 200), ("test", 100)):
        source = load_source("digits", split)
        sources.append(replace(source, dataset=source.dataset.select(range(rows))))
    return tuple(sources)


@pytest.mark.slow
def test_digits_by_name(resnet_folder):
    results = evaluate_encoder(resnet_folder, "digits")
    names = ["linear_top1", "linear_top5", "knn10_top1", "knn_top1", "knn100_top1", "knn200_top1"]
    assert [name for name in results if not is_spread(name)] == [f"eval_{name}" for name in names]
    assert all(
        0.2 < value <= 1 for name, value in results.items() if not is_spread(name)
    )  # even an untrained encoder beats chance
    assert results["eval_linear_top5"] >= results["eval_linear_top1"]


def test_sources_and_protocols_by_choice(resnet_folder, few_digits):
    protocols = ["few-shot", "logistic", "retrieval", "knn"]
    results = evaluate_encoder(str(resnet_folder), few_digits, protocols, batch_size=33, shots=(1, "all"))
    names = ["1shot_top1", "allshot_top1", "logistic_top1", "retrieval_map", "retrieval_recall1"]
    assert [f"eval_{name}" for name in names] == [name for name in results if not is_spread(name)][:5]
    model, processor = load_encoder(resnet_folder)
    expected = Knn().run(*(extract_embeddings(model, processor, source) for source in few_digits))
    assert results["eval_knn_top1"] == expected["eval_knn_top1"]


@pytest.mark.slow
def test_protocols_on_images(resnet_folder, few_digits):
    tuned = evaluate_encoder(resnet_folder, few_digits, ["knn", "fine-tune"], num_epochs=1, learning_rate=1e-3)
    assert "eval_knn_top1" in tuned and "eval_finetune_top5" in tuned
    assert format_table({"encoder": tuned}).startswith("| held out, in %")
    frozen = evaluate_encoder(resnet_folder, few_digits, ["knn"])
    assert frozen.items() <= tuned.items()


@pytest.mark.slow
def test_segmentation(resnet_folder, tmp_path):
    scenes = labelled_sources(str(save_digit_scenes(tmp_path / "scenes")), image_column="image", label_column="mask")
    results = evaluate_encoder(resnet_folder, scenes, ["segmentation"], resolution=32)
    assert 1 / 11 / 2 < results["eval_segmentation_miou"] < 1
    ignored = evaluate_encoder(resnet_folder, scenes, ["segmentation"], ignore_labels=[0, *range(2, 11)])
    assert ignored["eval_segmentation_miou"] == 1  # nothing but ones


@pytest.mark.slow
def test_segmentation_with_a_sliding_window(resnet_folder, tmp_path):
    scenes = labelled_sources(str(save_digit_scenes(tmp_path / "scenes")), image_column="image", label_column="mask")
    results = evaluate_encoder(resnet_folder, scenes, ["segmentation-dinov2"], crop_size=64)
    assert 1 / 11 / 2 < results["eval_segmentation_dinov2_miou"] < 1


@pytest.mark.parametrize(
    ("protocol", "setting"),
    [
        ("segmentation", "resolution"),
        ("segmentation-dinov2", "crop_size"),
        ("fine-tune", "learning_rate"),
        ("fine-tune", "num_epochs"),
    ],
)
def test_settings_out_of_range(resnet_folder, protocol, setting):
    with pytest.raises(ValueError, match=f"`{setting}` must be more than 0, got 0"):
        evaluate_encoder(resnet_folder, "digits", [protocol], **{setting: 0})


def test_a_setting_of_no_protocol(resnet_folder):
    with pytest.raises(ValueError, match="`shotz` is not a setting of any protocol; known are crop_size, .*shots"):
        evaluate_encoder(resnet_folder, "digits", shotz=[1])


def test_a_built_protocol(resnet_folder, few_digits):
    found = evaluate_encoder(resnet_folder, few_digits, [FewShot(shots=(1, 2))])
    assert found == evaluate_encoder(resnet_folder, few_digits, ["few-shot"], shots=(1, 2))


def test_shots_are_checked_before_any_work(few_digits):
    with pytest.raises(ValueError, match="`shots` 500 needs more images than class"):
        evaluate_encoder("/no/such/encoder", few_digits, ["few-shot"], shots=[500])


def test_unknown_protocol_names_the_known(resnet_folder):
    with pytest.raises(ValueError, match="`protocols` svm, tree unknown; known are linear, .*knn, few-shot, logistic"):
        evaluate_encoder(resnet_folder, "digits", protocols=["knn", "svm", "tree"])


def test_a_dataset_without_labels_is_refused(resnet_folder, few_digits):
    train, test = few_digits
    with pytest.raises(ValueError, match="'digits' has no labels.*`label_column`"):
        evaluate_encoder(resnet_folder, (train, replace(test, label_column=None)))


@pytest.mark.parametrize("protocol", ["knn", "fine-tune"])
def test_images_of_other_channels_are_refused_before_any_is_embedded(
    tiny_resnet, tmp_path, few_digits, protocol, capfd, monkeypatch
):
    monkeypatch.setattr("lejepa_hf.system.progress_bars.are_drawn", lambda: True)
    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet, num_channels=5)).save_pretrained(tmp_path)
    build_processor(16, 1.0, [0.5] * 5).save_pretrained(tmp_path)
    capfd.readouterr()
    with pytest.raises(
        ValueError, match="`dataset` 'digits': none of its first .* resnet encoder of 5 channels: .*has 1"
    ):
        evaluate_encoder(tmp_path, few_digits, [protocol])
    assert "embedding" not in capfd.readouterr().err


@pytest.mark.slow
def test_labels_of_each_kind(resnet_folder, few_digits):
    digits = [[row["label"] for row in source.dataset] for source in few_digits]
    splits = {}
    for split, source, numbers in zip(("train", "test"), few_digits, digits, strict=True):
        rows = source.dataset.add_column("size", [float(number) for number in numbers])
        marks = [[name for name in ("even", "large") if is_mark(number, name)] for number in numbers]
        rows = rows.add_column("marks", marks)
        names = [None if row == 3 else str(number > 4) for row, number in enumerate(numbers)]
        splits[split] = rows.add_column("is large", names).add_column("odd", [number % 2 == 1 for number in numbers])
    given = datasets.DatasetDict(splits)
    found = evaluate_encoder(resnet_folder, given, label_column="size")
    assert list(found)[::2] == ["eval_ridge_r2", "eval_ridge_mae"] and -1 < found["eval_ridge_r2"] < 1
    found = evaluate_encoder(resnet_folder, given, label_column="marks")
    assert list(found)[::2] == ["eval_linear_map", "eval_linear_auroc"] and 0.7 < found["eval_linear_auroc"] <= 1
    found = evaluate_encoder(resnet_folder, given, ["knn"], label_column=["is large", "label"])
    assert found["eval_is_large_knn_top1"] > 0.6 and found["eval_label_knn_top1"] > 0.3
    alone = evaluate_encoder(resnet_folder, given, ["knn"], label_column="is large")
    assert alone == {
        key.replace("is_large_", ""): value for key, value in found.items() if key.startswith("eval_is_large")
    }
    with pytest.raises(ValueError, match="`protocols` knn cannot use the labels in `label_column` 'size'"):
        evaluate_encoder(resnet_folder, given, ["ridge", "knn"], label_column="size")


def is_mark(number: int, name: str) -> bool:
    return number % 2 == 0 if name == "even" else number > 4


def test_a_stream_with_secret_labels_is_refused(resnet_folder, few_digits):
    train, test = few_digits
    hidden = test.dataset.to_iterable_dataset().map(lambda row: {"label": -1})
    with pytest.raises(ValueError, match="-1 or nothing as class in `label_column` 'label'"):
        evaluate_encoder(resnet_folder, (train, replace(test, dataset=hidden)), ["knn"])


@pytest.mark.slow
def test_baselines_stand_beside_the_encoder(resnet_folder, few_digits):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    rows, (train, held_out) = evaluate_with_baselines(resnet_folder, *few_digits, ["knn", "few-shot"])
    assert torch.equal(torch.get_rng_state(), before)
    assert list(rows) == [ENCODER, UNTRAINED, PIXELS]
    assert rows[ENCODER] == evaluate_encoder(resnet_folder, few_digits, ["knn", "few-shot"])
    assert rows[PIXELS] == run_protocols(*(raw_pixels(source) for source in few_digits), ["knn", "few-shot"])
    assert rows[UNTRAINED] != rows[ENCODER]
    expected = extract_embeddings(*load_encoder(resnet_folder), few_digits[1])
    torch.testing.assert_close(held_out.embeddings, expected.embeddings)
    assert held_out.labels.tolist() == few_digits[1].dataset["label"]
    assert train.labels.tolist() == few_digits[0].dataset["label"]


def test_averaged_weights_are_a_row_more(tiny_resnet, resnet_folder, tmp_path, few_digits):
    averaged = export(tiny_resnet | {"hidden_sizes": [8, 12]}, tmp_path / "averaged")
    rows, (_, held_out) = evaluate_with_baselines(resnet_folder, *few_digits, ["knn"], averaged)
    assert list(rows) == [ENCODER, AVERAGED, UNTRAINED, PIXELS]
    assert rows[AVERAGED] == evaluate_encoder(averaged, few_digits, ["knn"])
    assert rows[ENCODER] == evaluate_encoder(resnet_folder, few_digits, ["knn"])
    assert held_out.embeddings.shape[1] == 16  # the raw encoder's


def test_untrained_baseline_has_no_random_pooler(tiny_vit, tmp_path, few_digits):
    folder = export(tiny_vit, tmp_path / "vit")
    rows, _ = evaluate_with_baselines(folder, *few_digits, ["knn"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    fresh.config.embedding_pooling = "cls"
    processor = load_encoder(folder)[1]
    assert rows[UNTRAINED] == Knn().run(*(extract_embeddings(fresh, processor, source) for source in few_digits))


def test_protocols_share_one_dict_and_are_logged_in_percent(caplog):
    caplog.set_level("INFO", "lejepa_hf")
    parts = LabelledEmbeddings(torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3))
    assert run_protocols(parts, parts, ["knn"], "title") == Knn().run(parts, parts)
    assert caplog.messages[-1] == "title, knn: " + ", ".join(
        f"{k} top1 100.0" for k in ("knn10", "knn", "knn100", "knn200")
    )
