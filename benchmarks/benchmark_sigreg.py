"""
Cost of SIGReg: the reference formula, the eager operator, the Triton kernels on a GPU, and lightly's SIGReg if that
package is installed, in one run.

    python benchmarks/benchmark_sigreg.py [--device cuda] [--rounds 3]

One quantity is varied at a time around 8 views x 512 images, dimension 64, 1024 slices, 17 knots. The implementations
alternate, so that other load on the machine affects all of them alike; times are medians. Writes results/sigreg.csv
and docs/sigreg_cost.png, and prints straight-line fits. A run on a GPU keeps the CPU rows, and vice versa.
"""

import argparse
import contextlib
import csv
import ctypes
import datetime
import gc
import os
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import torch

from lejepa_hf import SIGReg

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sigreg.csv"
BASE = {"views": 8, "images": 512, "dim": 64, "slices": 1024, "knots": 17, "dtype": "float32"}
GRID = {
    "slices": [256, 512, 1024, 2048, 4096, 16384],
    "images": [64, 128, 256, 512, 1024, 4096],
    "knots": [5, 9, 17, 33, 65],
    "dim": [16, 64, 512],
    "dtype": ["float32", "bfloat16"],
}
LARGEST_PLAIN = 1 << 28  # views x images x slices x knots on a CPU, where the plain formulas take seconds
PLAIN_BYTES = 20  # a value of these, at the peak of forward and backward
QUEUED = {"cpu": 3, "cuda": 20}  # steps in a row; on a CPU the plain formulas take seconds, and nothing is queued


class Lightly(torch.nn.Module):
    """lightly's SIGReg takes one view at a time and draws its own directions."""

    def __init__(self, slices: int, knots: int):
        super().__init__()
        from lightly.loss.lejepa_loss import SIGReg as Theirs

        self.theirs = Theirs(num_vectors=slices, knots=knots)

    def forward(self, projections: torch.Tensor, step: int) -> torch.Tensor:
        return torch.stack([self.theirs(view) for view in projections]).mean()


def has_plain(case: dict, device: str, memory: int) -> bool:
    """Whether the plain formulas are measured: in half of a GPU's memory, on a CPU up to a size."""
    values = case["views"] * case["images"] * case["slices"] * case["knots"]
    return values * PLAIN_BYTES <= memory / 2 if device == "cuda" else values <= LARGEST_PLAIN


def implementations(case: dict, device: str) -> dict[str, torch.nn.Module]:
    slices, knots = case["slices"], case["knots"]
    found = {"eager": SIGReg(slices, knots, backend="eager")}
    if device == "cuda":
        found["triton"] = SIGReg(slices, knots, backend="triton")
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0
    if has_plain(case, device, memory):
        found["reference"] = SIGReg(slices, knots, backend="reference")
        with contextlib.suppress(ImportError):
            found["lightly"] = Lightly(slices, knots).to(device)
    return found


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step(module, projections, device) -> tuple[float, float]:
    """Seconds of the forward pass, and of forward and backward together."""
    leaf = projections.clone().requires_grad_()
    synchronize(device)
    begin = time.perf_counter()
    loss = module(leaf, 0)
    synchronize(device)
    middle = time.perf_counter()
    loss.backward()
    synchronize(device)
    return middle - begin, time.perf_counter() - begin


def queued_seconds(module, projections, device) -> float:
    """Seconds a step of many in a row, between which nobody waits: as in a run, launches hide behind the device."""
    leaf = projections.clone().requires_grad_()
    synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
    begin = time.perf_counter()
    if events:
        events[0].record()
    for _ in range(QUEUED[device]):
        leaf.grad = None
        module(leaf, 0).backward()
    if events:
        events[1].record()
        events[1].synchronize()
        return events[0].elapsed_time(events[1]) / 1e3 / QUEUED[device]
    return (time.perf_counter() - begin) / QUEUED[device]


def kept_bytes(module, projections) -> int:
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(projections.clone().requires_grad_(), 0)
    return sum(kept.values())


def peak_bytes(module, projections, device) -> int:
    """Peak memory added by forward and backward; on a CPU the resident memory, sampled every half millisecond."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(module, projections, device)
        return torch.cuda.max_memory_allocated() - before
    page, peak, done = os.sysconf("SC_PAGE_SIZE"), 0, threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * page

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(5e-4)

    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc; freed memory that it holds back would hide what is taken
        ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    step(module, projections, device)
    done.set()
    watcher.join()
    return max(0, peak - before)


def measure(case: dict, device: str, rounds: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    projections = torch.randn(case["views"], case["images"], case["dim"], generator=generator)
    projections = projections.to(device, getattr(torch, case["dtype"]))
    modules = implementations(case, device)
    peaks = {name: peak_bytes(module, projections, device) for name, module in modules.items()}  # a warm-up as well
    kept = {name: kept_bytes(module, projections) for name, module in modules.items()}
    seconds = {name: [] for name in modules}
    queued = {name: 1e3 * queued_seconds(module, projections, device) for name, module in modules.items()}
    for _ in range(rounds):
        for name, module in modules.items():
            fast = name in ("eager", "triton")
            seconds[name] += [step(module, projections, device) for _ in range(3 if fast else 1)]
    rows = []
    for name, pairs in seconds.items():
        forward, both = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        rows.append(
            {"device": device, "implementation": name, **case, "forward_ms": round(forward, 2),
             "forward_backward_ms": round(both, 2), "queued_ms": round(queued[name], 4),
             "kept_mib": round(kept[name] / 2**20, 2), "peak_mib": round(peaks[name] / 2**20, 1)}
        )  # fmt: skip
    by_name = {row["implementation"]: row["forward_backward_ms"] for row in rows}
    for row in rows:
        slowest = by_name.get("reference")
        row["times_faster_than_reference"] = round(slowest / row["forward_backward_ms"], 1) if slowest else ""
        print({key: row[key] for key in list(row)[1:]}, flush=True)
    return rows


def varied(rows: list[dict], name: str, field: str, device: str) -> list[dict]:
    others = {key: str(value) for key, value in BASE.items() if key != field}
    chosen = [
        row
        for row in rows
        if row["implementation"] == name
        and row["device"] == device
        and all(str(row[key]) == value for key, value in others.items())
    ]
    return sorted(chosen, key=lambda row: float(row[field]))


def print_fits(rows: list[dict], device: str) -> None:
    for field in ("slices", "images", "knots"):
        for name in ("eager", "triton"):
            line = varied(rows, name, field, device)
            if len(line) > 2:
                x, y = (np.array([float(row[key]) for row in line]) for key in (field, "forward_backward_ms"))
                slope, offset = np.polyfit(x, y, 1)
                share = 1 - ((y - slope * x - offset) ** 2).sum() / ((y - y.mean()) ** 2).sum()
                print(f"{name}: {offset:.1f} ms + {slope:.4f} ms a {field.removesuffix('s')}, R^2 {share:.3f}")


def draw(rows: list[dict], device: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    colours = {"reference": "#D55E00", "lightly": "#CC79A7", "eager": "#0072B2", "triton": "#009E73"}
    values = {"forward_backward_ms": "forward + backward, ms", "peak_mib": "peak memory added, MiB"}
    for column, field in enumerate(("slices", "images")):
        for row, (value, label) in enumerate(values.items()):
            axis = axes[row, column]
            for name, colour in colours.items():
                line = varied(rows, name, field, device)
                x, y = ([max(float(item[key]), 0.1) for item in line] for key in (field, value))
                if x:
                    axis.plot(x, y, "o-", color=colour, label=name)
            axis.set(xscale="log", yscale="log", xlabel=field, ylabel=label)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    where = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else torch.cuda.get_device_name()
    figure.suptitle(f"SIGReg, 8 views x 512 images, dimension 64, 1024 slices, 17 knots, on {where}", fontsize=11)
    figure.savefig(ROOT / "docs" / "sigreg_cost.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = [BASE | {field: value} for field, values in GRID.items() for value in values]
    cases = list({tuple(case.items()): case for case in cases}.values())
    stamp = {"date": str(datetime.date.today()), "torch": torch.__version__, "threads": torch.get_num_threads()}
    rows = [row | stamp for case in cases for row in measure(case, options.device, options.rounds)]
    if RESULTS.exists():
        with RESULTS.open() as file:
            rows += [row for row in csv.DictReader(file) if row["device"] != options.device]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))  # what older rows lack stays empty
        writer.writeheader()
        writer.writerows(rows)
    print_fits(rows, options.device)
    draw(rows, options.device)


if __name__ == "__main__":
    main()
