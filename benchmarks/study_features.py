"""
Which features of a trained run classify best: projector or encoder, class token or patches, one layer or two.

`python benchmarks/study_features.py RUN [RUN ...]`, where each RUN is the folder of a finished run. The features are
evaluated by linear probe and k-NN on held-out digits. Rows go to benchmarks/results/features.csv.
"""

import argparse
import csv
import datetime
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import yaml

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings, embedded_batches
from lejepa_hf.evaluation.evaluate_encoder import load_encoder, run_protocols
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor

RESULTS = Path(__file__).parent / "results" / "features.csv"
BATCH_SIZE = 256


@dataclass
class Projections:
    """The projector's output for the trained embedding, which is all that the loss sees during training."""

    embedding: FeatureExtractor
    projector: torch.nn.Module

    def decode(self, value):
        return self.embedding.decode(value)

    def preprocess(self, images: list) -> torch.Tensor:
        return self.embedding.preprocess(images)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projector(self.embedding(pixels))


def extractors(run: Path) -> dict:
    """All kinds of features that a run can provide, by name."""
    encoder, processor = load_encoder(run)
    embedding = FeatureExtractor(encoder, processor)
    pretraining = LeJEPAForPreTraining.from_pretrained(run / "pretraining").eval().to(encoder.device)
    found = {"projector output": Projections(embedding, pretraining.projector), "trained embedding (auto)": embedding}
    for pooling in ("cls", "patches"):
        for num_layers in (1, 2):
            extractor = FeatureExtractor(encoder, processor, pooling, num_layers)
            try:
                extractor.try_one()
            except ValueError:
                continue  # no class token
            found[f"{pooling}, {num_layers} layer{'s' * (num_layers > 1)}"] = extractor
    return found


def embed(extractor, source) -> LabelledEmbeddings:
    batches = list(embedded_batches(extractor, source, BATCH_SIZE))
    labels = [label for batch, _ in batches for label in batch.labels]
    return LabelledEmbeddings(torch.cat([embeddings for _, embeddings in batches]), torch.tensor(labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    sources = [load_source("digits", split) for split in ("train", "test")]
    rows = []
    for run in options.runs:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        for name, extractor in extractors(run).items():
            train, test = (embed(extractor, source) for source in sources)
            results = run_protocols(train, test, ["linear", "knn"])
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "run": run.resolve().name,
                    "backbone": recipe["backbone_config"]["model_type"],
                    "seed": recipe["seed"],
                    "features": name,
                    "dim": train.embeddings.shape[1],
                    "linear_top1": round(results["eval_linear_top1"], 4),
                    "knn_top1": round(results["eval_knn_top1"], 4),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                }
            )
            print({key: rows[-1][key] for key in ("run", "features", "dim", "linear_top1", "knn_top1")}, flush=True)
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
