"""
Does the weight of SIGReg matter, and does the held-out loss tell which run is best?

    python benchmarks/study_sigreg_weight.py --steps 200

trains `recipes/digits/resnet_tiny.yaml` with each weight and seed, a run a core, judges the frozen encoders on
held-out digits and draws docs/sigreg_weight.png. A stopped study goes on with the runs it lacks. Claims
of arXiv 2511.08544: accuracy is flat over weights from 0.01 to 0.1; loss / weight^0.4 ranks runs like accuracy, over
0.9.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lejepa_hf.hub.logged_rows import read_results
from lejepa_hf.selection import ALPHA, Candidate, find_candidates

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
WEIGHTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SEEDS = (0, 1, 2)
ACCURACIES = ("eval_linear_top1", "eval_knn_top1", "eval_1shot_top1")


def train(folder: Path, weight: float, seed: int, steps: int, cores: Queue) -> None:
    if (folder / "results.json").is_file():
        return
    core = cores.get()
    command = [sys.executable, "train.py", "recipes/digits/resnet_tiny.yaml", "--max_steps", str(steps)]
    command += ["--sigreg_weight", str(weight), "--seed", str(seed), "--output_dir", str(folder), "--use_cpu"]
    command += ["--save_strategy", "no", "--eval_strategy", "steps", "--eval_steps", str(steps)]
    command += ["--dataloader_num_workers", "0", "--monitors", "knn"]
    pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, {core})} if hasattr(os, "sched_setaffinity") else {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.log").open("w") as log:
        subprocess.run(
            command, cwd=ROOT, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pinned
        )
    cores.put(core)
    print(folder.name, flush=True)


def correlation(candidates: list[Candidate], accuracy: dict[str, float], alpha: float) -> float:
    scores = [-one.loss / one.sigreg_weight**alpha for one in candidates]
    return float(spearmanr(scores, [accuracy[one.run] for one in candidates]).statistic)


def draw(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#777777", "D", ":"))
    weights = sorted({row["sigreg_weight"] for row in rows})
    for name, (colour, marker, line) in zip(ACCURACIES, styles, strict=True):
        of_weight = [[100 * row[name] for row in rows if row["sigreg_weight"] == weight] for weight in weights]
        means = [statistics.fmean(values) for values in of_weight]
        reach = [
            [abs(end(values) - mean) for values, mean in zip(of_weight, means, strict=True)] for end in (min, max)
        ]
        label = name.removeprefix("eval_").replace("_", " ")
        left.errorbar(weights, means, reach, color=colour, marker=marker, linestyle=line, capsize=3, label=label)
    left.axvspan(0.01, 0.1, color="#eeeeee", zorder=0)
    left.set(xscale="log", xlabel="sigreg_weight", ylabel="held-out top-1 in %, mean and range of the seeds")
    left.set_title("Accuracy; grey: where the paper finds it flat", fontsize="medium")
    left.legend(frameon=False)
    right.scatter([row["score"] for row in rows], [100 * row["eval_linear_top1"] for row in rows], color="#0072b2")
    right.set(
        xscale="log", xlabel=f"held-out loss / sigreg_weight^{ALPHA}, lower is better", ylabel="linear top-1 in %"
    )
    right.set_title("Does the loss tell", fontsize="medium")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "study_sigreg_weight")
    options = parser.parse_args()
    cores: Queue = Queue()
    for core in sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count()):
        cores.put(core)
    folder = options.folder / f"{options.steps}-steps"
    runs = {(weight, seed): folder / f"{weight}-{seed}" for seed in SEEDS for weight in WEIGHTS}
    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(lambda key: train(runs[key], *key, options.steps, cores), runs))
    last = [one for one in find_candidates(list(runs.values())) if one.is_final]
    scores = {one.run: one.score for one in last}
    rows = []
    for (weight, seed), run in runs.items():
        results = read_results(run)["encoder"]
        accuracies = {name: results[name] for name in ACCURACIES}
        rows.append(
            {"steps": options.steps, "sigreg_weight": weight, "seed": seed, "score": scores[run.name], **accuracies}
        )
    with (RESULTS / "sigreg_weight.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "torch"])
        writer.writeheader()
        for row in rows:
            shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(shown | {"torch": torch.__version__})
    draw(rows, ROOT / "docs" / "sigreg_weight.png")
    for name in ACCURACIES:
        accuracy = {run.name: row[name] for run, row in zip(runs.values(), rows, strict=True)}
        found = {alpha: correlation(last, accuracy, alpha) for alpha in (0.0, 0.2, ALPHA, 0.6, 0.8, 1.0)}
        print(name, "rank correlation by alpha:", {alpha: round(value, 2) for alpha, value in found.items()})


if __name__ == "__main__":
    main()
