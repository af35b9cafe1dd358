"""
Does the loss show, without labels, which run is best?

    python benchmarks/study_loss.py

Runs over a grid of weights and learning rates are ranked by loss / weight^alpha, and the rank correlation with their
accuracies is measured for three losses: the training loss, as in the paper; the held-out loss with batch norm as in
training, which is `eval_loss` and what `lejepa select` uses; and the held-out loss in plain evaluation mode. The runs
of study_sigreg_weight.py, with one learning rate and weights far apart, are ranked too. Claim of arXiv 2511.08544:
Spearman's correlation is 0.94 to 0.99 at the best alpha, about 0.4.
"""

import csv
import logging
import tempfile
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from study_runs import ACCURACIES, PICTURES, RESULTS, STYLES, finish, print_table, run_study, write_rows
from study_sigreg_weight import SETTINGS as SWEEP
from tqdm.auto import tqdm

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.model.batch_norm import batch_statistics
from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import resolve
from lejepa_hf.runs.selection import ALPHA

WEIGHTS = (0.02, 0.05, 0.1)
RATES = (1e-4, 3e-4, 1e-3, 2e-3, 6e-3)  # 2e-3 is the recipe's
SETTINGS = {
    f"weight {weight}, rate {rate}": {"sigreg_weight": weight} | ({"learning_rate": rate} if rate != 2e-3 else {})
    for weight in WEIGHTS
    for rate in RATES
}
ALPHAS = (0.0, 0.2, ALPHA, 0.6, 0.8, 1.0)
LOSSES = {
    "train_loss": "training",
    "held_out_loss": "held-out, batch norm as in training",
    "held_out_loss_in_eval_mode": "held-out, evaluation mode",
}


@torch.no_grad()
def held_out_losses(run: Path, batches: dict[int, tuple]) -> dict[str, float]:
    """Losses on the views that `eval_loss` is measured on; `batches` caches the views of each seed."""
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    if content["seed"] not in batches:
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "recipe.yaml"
            recipe.write_text(yaml.safe_dump(content | {"output_dir": f"{folder}/run"}))
            with torch.enable_grad():
                trainer, _ = build(resolve(parse_recipe(recipe)))
        images = trainer._held_out_images().batches
        batches[content["seed"]] = [(trainer._prepare_inputs(batch.views), batch.weight) for batch in images]
    model = LeJEPAForPreTraining.from_pretrained(run / "pretraining").eval()

    def mean_loss() -> float:
        return sum(weight * model(**views, step=0).loss.item() for views, weight in batches[content["seed"]])

    found = {"held_out_loss_in_eval_mode": mean_loss()}
    with batch_statistics(model):
        return found | {"held_out_loss": mean_loss()}


def correlation(rows: list[dict], loss: str, accuracy: str, alpha: float) -> float:
    scores = [-row[loss] / row["sigreg_weight"] ** alpha for row in rows]
    return float(spearmanr(scores, [row[accuracy] for row in rows]).statistic)


def main() -> None:
    rows, swept, batches = run_study(SETTINGS), run_study(SWEEP), {}
    logging.disable(logging.INFO)
    for row in tqdm(rows + swept, desc="held-out losses"):
        row |= held_out_losses(row["folder"], batches)
    in_grid = {row["folder"] for row in rows}
    further = [row | {"label": f"sweep, weight {row['label']}"} for row in swept if row["folder"] not in in_grid]
    write_rows("loss", rows + further)
    print_table(rows)
    groups = {"grid": rows, "sweep": swept} | {
        f"weight {one}": [row for row in rows if row["sigreg_weight"] == one] for one in WEIGHTS
    }
    found = [
        {"runs": group, "loss": text, "alpha": alpha}
        | {of: f"{correlation(groups[group], loss, name, alpha):.2f}" for name, of in ACCURACIES.items()}
        for group in groups
        for loss, text in LOSSES.items()
        for alpha in (ALPHAS if group in ("grid", "sweep") else (0.0,))
    ]
    with (RESULTS / "study_loss_correlations.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*found[0]])
        writer.writeheader()
        writer.writerows(found)
    for row in found:
        print(row)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (loss, text) in zip(figure.subplots(1, len(LOSSES), sharey=True), LOSSES.items(), strict=True):
        for weight, (colour, marker, _) in zip(WEIGHTS, STYLES, strict=False):
            chosen = groups[f"weight {weight}"]
            scores = [row[loss] / weight**ALPHA for row in chosen]
            tops = [row["linear_top1"] for row in chosen]
            axes.scatter(scores, tops, color=colour, marker=marker, label=f"weight {weight}")
        axes.set_xlabel(f"loss / weight^{ALPHA}, lower is better")
        finish(axes, f"{text}: {correlation(rows, loss, 'linear_top1', ALPHA):.2f}")
    figure.axes[0].set_ylabel("held-out linear top-1 in %")
    figure.axes[0].legend(frameon=False)
    figure.savefig(PICTURES / "study_loss.png", dpi=120)


if __name__ == "__main__":
    main()
