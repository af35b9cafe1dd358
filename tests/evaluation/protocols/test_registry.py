import re
from ast import literal_eval
from pathlib import Path

import pytest
import torch

from lejepa_hf.evaluation import protocols
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.evaluate_encoder import run_protocols
from lejepa_hf.evaluation.protocols.protocol import OnEmbeddings
from lejepa_hf.evaluation.protocols.registry import PROTOCOLS, check_protocols, make_protocols, protocol_class


def test_names_are_those_of_the_classes():
    assert [protocol_class(name).name for name in PROTOCOLS] == [*PROTOCOLS]


def test_unknown_ones_are_refused():
    check_protocols([*PROTOCOLS])
    with pytest.raises(ValueError, match="svm unknown; known are linear, .*retrieval, ridge, .*segmentation"):
        check_protocols(["knn", "svm"])


def test_what_needs_images_is_for_later():
    on_embeddings = [name for name in PROTOCOLS if issubclass(protocol_class(name), OnEmbeddings)]
    check_protocols(on_embeddings, at_the_end_of_training=True)
    with pytest.raises(ValueError, match="`eval_protocols` fine-tune, segmentation cannot run at the end"):
        check_protocols(["knn", "fine-tune", "segmentation"], at_the_end_of_training=True)


def test_each_protocol_gets_its_own_settings():
    settings = {"shots": (1, "all"), "resolution": 32, "num_epochs": None, "learning_rate": 1e-3}
    knn, few_shot, fine_tune, segmentation = make_protocols(["knn", "few-shot", "fine-tune", "segmentation"], settings)
    assert few_shot.shots == (1, "all") and segmentation.resolution == 32
    assert (fine_tune.learning_rate, fine_tune.num_epochs) == (1e-3, None)
    assert make_protocols([few_shot, "knn"], {}) == [few_shot, knn]


def test_a_setting_that_no_protocol_has():
    with pytest.raises(ValueError, match="`shot` is not a setting of any protocol; known are .*num_epochs.*shots"):
        make_protocols(["knn"], {"shot": 1})


def test_the_protocol_of_contributing_is_one_file_and_one_line(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## A new protocol\n")[1].split("\n## ")[0]
    name, code = re.search(r"here `(\w+\.py)`:\n\n```python\n(.*?)```", section, re.DOTALL).groups()
    (tmp_path / name).write_text(code)
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])
    for key, place in literal_eval("{" + re.search(r"the line `(.+?)`", section)[1] + "}").items():
        monkeypatch.setitem(PROTOCOLS, key, place)
    check_protocols(["nearest-mean"], at_the_end_of_training=True)
    parts = LabelledEmbeddings(torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3) + 2)
    found = run_protocols(parts, parts, ["nearest-mean"])
    assert list(found) == ["eval_nearest_mean_top1", "eval_nearest_mean_top1_ci95"]
    assert found["eval_nearest_mean_top1"] == 1
