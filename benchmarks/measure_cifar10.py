"""
Part `cifar10` of measure_gpu.sh: recipes/cifar10/resnet_small.yaml for the time that remains. With `--dataset`, a glob
of the Parquet files of CIFAR-10's training images, it trains on 90 % of them and evaluates on 10 %; otherwise it
trains on generated images of their size, which shows the speed alone.
"""

import json
import statistics
import subprocess
import sys

from measure_rows import ROOT, Rows, options_of_part, tail
from measured_runs import SCRIPT, rows_of

RECIPE, BATCH = "recipes/cifar10/resnet_small.yaml", 128
FIGURES = ("batch", "steps", "images_per_second", "loss", "linear_top1", "knn_top1")
STARTING, EVALUATING = 45, 120  # seconds


def run(options, name: str, steps: int, real: bool) -> list[dict]:
    """The logged rows of a run of so many steps, resumed if it was begun."""
    folder = options.folder / "work" / name
    settings = {"output_dir": folder, "max_steps": steps, "per_device_train_batch_size": BATCH, "disable_tqdm": True}
    settings |= {"resume": "auto", "dataloader_num_workers": 0 if options.tiny else 8, "report_to": "none"}
    settings |= {"save_steps": 500, "use_cpu": options.device == "cpu", "logging_steps": 1 if steps < 100 else 50}
    if options.tiny:
        settings |= {"per_device_train_batch_size": 8, "bf16": False, "num_slices": 16}
    command = [sys.executable, *(["train.py", RECIPE] if real else [str(SCRIPT), RECIPE, "--side", "32"])]
    if real:
        settings |= {"dataset": options.dataset, "train_split": "train", "eval_split": "10%"}
    command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(tail(done.stdout + done.stderr), flush=True)
    if done.returncode:
        raise RuntimeError(tail(done.stderr))
    return rows_of(folder)


def rate(rows: list[dict]) -> float:
    return statistics.median(row["images_per_second"] for row in rows[len(rows) // 2 :])


def planned_steps(options) -> int:
    """From the speed of a short run; planned once, so that a killed run continues instead of being planned again."""
    plan = options.folder / "work" / "cifar10-steps.txt"
    if not plan.is_file():
        trial = 4 if options.tiny else 60
        speed = rate(run(options, "cifar10-trial", trial, real=False))
        seconds = options.seconds - STARTING - (EVALUATING if options.dataset else 0)
        plan.write_text(str(trial if options.tiny else max(trial, int(0.7 * seconds * speed / BATCH))), "utf-8")
    return int(plan.read_text("utf-8"))


def measure(options) -> dict:
    rows = run(options, "cifar10", planned_steps(options), real=options.dataset is not None)
    lines = (options.folder / "work" / "cifar10" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = {name: value for line in lines for name, value in json.loads(line).items() if name.startswith("eval_")}
    row = {"batch": BATCH, "steps": rows[-1]["step"], "images_per_second": rate(rows), "loss": rows[-1]["loss"]}
    return row | {"linear_top1": found.get("eval_linear_top1"), "knn_top1": found.get("eval_knn_top1")}


def main(arguments: list[str] | None = None) -> int:
    parser = options_of_part(__doc__)
    parser.add_argument("--seconds", type=int, default=480, help="time that remains")
    parser.add_argument("--dataset", help="Parquet files of CIFAR-10")
    options = parser.parse_args(arguments)
    rows = Rows(options.folder / "cifar10.csv", ("images",), FIGURES)
    rows.measure({"images": options.dataset or "generated"}, lambda: measure(options))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
