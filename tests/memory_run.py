"""Embeds large photographs, or takes their pixels, and prints how much memory that added at most, in MB."""

import resource
import sys

import datasets
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.evaluation.embeddings.extraction import extract_embeddings
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels
from lejepa_hf.hub.export import build_processor

CONFIG = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}


def most() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    kind, folder, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    path = load_source(folder).dataset[0]["image"]["path"]
    rows = {"image": [{"bytes": None, "path": path}] * number, "label": [0] * number}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    source = ImageSource(datasets.Dataset.from_dict(rows, features), "photographs", "image", "label")
    encoder = AutoModel.from_config(AutoConfig.for_model(**CONFIG)).eval()
    torch.zeros(1).log_softmax(0)
    before = most()
    found = raw_pixels(source) if kind == "pixels" else extract_embeddings(encoder, build_processor(32), source)
    assert len(found.labels) == number
    sys.stdout.write(f"{most() - before:.0f}\n")
