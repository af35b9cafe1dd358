"""
The studies of the digits that photographs can say more about: weight, number of views, batch, slices, the projector's
norm, and whether the loss ranks runs without labels.

    python benchmarks/study_photographs.py
    python benchmarks/study_photographs.py --dataset PATH --only weight norm

Runs of recipes/cifar10/resnet_small.yaml, cut to 400 steps. They train on 45,000 of CIFAR-10's training images and
are evaluated on the 5,000 others; the test set is not used. Runs with another batch see as many images as the others.
Rows of each study go to results/study_photographs_NAME.csv, means and ranges to docs/study_photographs_NAME.png.
"""

import argparse
import csv
import logging
from dataclasses import replace

from study_loss import ALPHAS, LOSSES, correlation, held_out_losses
from study_runs import ACCURACIES, RESULTS, ROOT, Subject, draw_panels, print_table, run_study, write_rows
from tqdm.auto import tqdm

PHOTOGRAPHS = Subject(
    "photographs",
    ROOT / "recipes" / "cifar10" / "resnet_small.yaml",
    {"max_steps": 400, "train_split": "train[:45000]", "eval_split": "train[45000:]"},
)
WEIGHT, RATE, BATCH = 0.05, 2e-3, 128  # the recipe's
RATES = (5e-4, RATE, 8e-3)
STUDIES = {
    "weight": {
        f"weight {weight}": {} if weight == WEIGHT else {"sigreg_weight": weight}
        for weight in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    },
    "views": {f"2 + {local} views": {} if local == 2 else {"num_local_views": local} for local in (0, 2, 6)},
    "batch": {
        f"batch {batch}": {}
        if batch == BATCH
        else {"per_device_train_batch_size": batch, "max_steps": PHOTOGRAPHS.steps * BATCH // batch}
        for batch in (32, 64, 128, 256, 512)
    },
    "slices": {f"{number} slices": {} if number == 256 else {"num_slices": number} for number in (16, 64, 256, 1024)},
    "norm": {"one norm for all views": {}, "one norm for each size": {"projector_norm": "batch_per_size"}},
    "loss": {
        f"weight {weight}, rate {rate}": ({} if weight == WEIGHT else {"sigreg_weight": weight})
        | ({} if rate == RATE else {"learning_rate": rate})
        for weight in (0.02, 0.05, 0.1)
        for rate in RATES
    },
}


def correlations(rows: list[dict]) -> list[dict]:
    """Spearman's correlation of each loss with each accuracy over the runs of the study of the loss."""
    return [
        {"loss": text, "alpha": alpha}
        | {of: f"{correlation(rows, loss, name, alpha):.2f}" for name, of in ACCURACIES.items()}
        for loss, text in LOSSES.items()
        for alpha in ALPHAS
    ]


def add_losses(rows: list[dict]) -> None:
    batches: dict = {}
    for row in tqdm(rows, desc="held-out losses"):
        row.setdefault("sigreg_weight", WEIGHT)
        row |= held_out_losses(row["folder"], batches)
    found = correlations(rows)
    with (RESULTS / "study_photographs_correlations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*found[0]])
        writer.writeheader()
        writer.writerows(found)
    for row in found:
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="where CIFAR-10 lies, as in a recipe; default: the recipe's")
    parser.add_argument(
        "--only", nargs="+", choices=list(STUDIES), default=list(STUDIES), help="studies; default: all"
    )
    options = parser.parse_args()
    subject = replace(PHOTOGRAPHS, dataset=options.dataset)
    logging.getLogger("lejepa_hf").setLevel(logging.WARNING)
    for study in options.only:
        settings = STUDIES[study]
        rows = run_study(settings, subject=subject)
        if study == "loss":
            add_losses(rows)
        write_rows(f"photographs_{study}", rows)
        print_table(rows)
        draw_panels(f"photographs_{study}", rows, {study: settings})


if __name__ == "__main__":
    main()
