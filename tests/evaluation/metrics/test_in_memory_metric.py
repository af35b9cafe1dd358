import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

import lejepa_hf
from lejepa_hf.evaluation.metrics.mean_iou import MeanIoU
from lejepa_hf.evaluation.metrics.ranking_quality import RankingQuality
from lejepa_hf.evaluation.metrics.top_k_accuracy import TopKAccuracy

FOLDER = Path(lejepa_hf.__file__).parent / "evaluation" / "metrics"
METRICS = {
    "top_k_accuracy": (TopKAccuracy, {"predictions": [[1, 0], [0, 1]], "references": [1, 1]}),
    "ranking_quality": (RankingQuality, {"predictions": [[1, 3], [2]], "references": [2, 1]}),
    "mean_iou": (MeanIoU, {"predictions": [[[3, 2], [1, 1]]], "references": [[2, 2]]}),
}
RUN = """
import sys
import torch
from dataclasses import replace
from transformers import AutoConfig, AutoModel
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.baselines import ENCODER
from lejepa_hf.evaluation.evaluate_encoder import evaluate_with_baselines
from lejepa_hf.hub.export import build_processor
torch.set_num_threads(1)
config = AutoConfig.for_model("resnet", layer_type="basic", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
config.embedding_pooling = "pooler"
AutoModel.from_config(config).save_pretrained(sys.argv[1])
build_processor(16, crop_ratio=1.0).save_pretrained(sys.argv[1])
sources = [load_source("digits", split) for split in ("train", "test")]
few = [replace(source, dataset=source.dataset.select(range(100))) for source in sources]
rows, _ = evaluate_with_baselines(sys.argv[1], *few, ["linear", "knn", "few-shot", "logistic", "retrieval"])
assert {"eval_linear_top1", "eval_retrieval_map"} <= rows[ENCODER].keys()
"""


@pytest.mark.slow
def test_a_home_that_cannot_be_written_to_costs_no_results(tmp_path):
    home = tmp_path / "file"
    home.write_text("a file, below which no folder can be made, not even by root")
    environment = os.environ | {"HF_HOME": str(home / "home")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "encoder")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", METRICS)
def test_evaluate_loads_it_too(name):
    own, inputs = METRICS[name]
    loaded = evaluate.load(str(FOLDER / f"{name}.py"))
    assert type(loaded).__name__ == own.__name__ and type(loaded) is not own
    assert loaded.compute(**inputs) == own().compute(**inputs)


def test_no_file_is_written(tmp_path, monkeypatch):
    opened, watching = [], True

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])

    sys.addaudithook(watch)  # stays for the life of the process, hence the switch
    TopKAccuracy().compute(predictions=np.tile([1, 0], (5000, 1)).tolist(), references=[1] * 5000)
    watching = False
    assert not opened
