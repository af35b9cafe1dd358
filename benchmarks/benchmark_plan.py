"""
Compares the predictions of `lejepa plan` with the run that follows: images per second and peak memory of a process.

    python benchmarks/make_shards.py SHARDS --images 4000 --distinct 1000
    python benchmarks/benchmark_plan.py [SHARDS] [--rounds 3] [--device cuda]

Plans and runs alternate, so that other load on the machine affects both alike; figures are medians over the rounds. A
run is a run of train.py without the final evaluation, in a separate process: its speed is the median of the logged
values, and its memory is the peak of resident memory (CPU) or of memory reserved on the device (GPU). With SHARDS,
ViT-S/16 with the ImageNet settings is measured too, with a few images per step. Writes results/plan.csv; a run on a
GPU keeps the CPU rows, and vice versa.
"""

import argparse
import csv
import datetime
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from operator import itemgetter
from pathlib import Path

import torch
import transformers

from lejepa_hf.runs.dry_run import peak_resident_bytes
from lejepa_hf.runs.plan import make_plan
from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import resolve

RESULTS = Path(__file__).parent / "results" / "plan.csv"
DIGITS = ["--max_steps", "150"]
SHARDS = ["--eval_split", "null", "--logging_steps", "1", "--max_steps"]


def cases(shards: Path | None, device: str) -> list[tuple[str, list[str]]]:
    found = [("recipes/digits/resnet_tiny.yaml", DIGITS), ("recipes/digits/vit_tiny.yaml", DIGITS)]
    if shards is not None:
        files = ["--dataset", f"{shards}/train-*.parquet"]
        batches, steps, precision = (["64"], "60", []) if device == "cuda" else (["4", "8"], "6", ["--bf16", "false"])
        arguments = [*files, *SHARDS, steps, *precision, "--per_device_train_batch_size"]
        found += [("recipes/imagenet1k/vit_s16.yaml", [*arguments, batch]) for batch in batches]
    return found if device == "cuda" else [(recipe, [*arguments, "--use_cpu"]) for recipe, arguments in found]


def real_run(recipe: str, arguments: list[str]) -> tuple[float, int]:
    """Images per second and peak bytes of a short training run."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [*arguments, "--output_dir", f"{folder}/run", "--save_strategy", "no", "--disable_tqdm", "true"]
        trainer, _ = build(resolve(parse_recipe(recipe, settings)))
        trainer.train()
        rows = map(json.loads, Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    memory = torch.cuda.max_memory_reserved() if trainer.args.device.type == "cuda" else peak_resident_bytes()
    return statistics.median(rates[1:]), memory  # the first steps wait for the workers to start


def compare(recipe: str, arguments: list[str], device: str, rounds: int) -> dict:
    parsed = parse_recipe(recipe, arguments)
    plans, runs = [], []
    for _ in range(rounds):
        plans.append(make_plan(parsed))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            runs.append(process.submit(real_run, recipe, arguments).result())
        print(f"  {plans[-1].images_per_second:.4g} images/s planned, {runs[-1][0]:.4g} in the run", flush=True)
    rate = statistics.median(plan.images_per_second for plan in plans)
    memory = statistics.median(plan.measured.used_bytes for plan in plans)
    real_rate, real_memory = map(statistics.median, zip(*runs, strict=True))
    images = plans[0].images
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "recipe": recipe,
        "batch": str(plans[0].batch),
        "rehearsed_batch": plans[-1].measured.batch,
        "rounds": rounds,
        "planned_images_per_second": round(rate, 3),
        "real_images_per_second": round(real_rate, 3),
        "planned_seconds_per_epoch": round(images / rate, 1),
        "real_seconds_per_epoch": round(images / real_rate, 1),
        "ratio_of_times": round(real_rate / rate, 3),
        "planned_mib": round(memory / 2**20),
        "real_mib": round(real_memory / 2**20),
        "ratio_of_memory": round(memory / real_memory, 3),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?", type=Path, help="folder from make_shards.py")
    parser.add_argument("--rounds", type=int, default=3, help="number of plans and runs to take the median of")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    rows = []
    for recipe, arguments in cases(options.shards, options.device):
        print(recipe, *arguments)
        rows.append(compare(recipe, arguments, options.device, options.rounds))
        print(rows[-1], flush=True)
    case = itemgetter("device", "recipe", "batch")
    kept = []
    if RESULTS.exists():
        with RESULTS.open() as file:
            kept = [row for row in csv.DictReader(file) if case(row) not in map(case, rows)]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept + rows)


if __name__ == "__main__":
    main()
