"""
Cost of the protocols at the size of ImageNet-1k: the time of k-NN, extrapolated from a part, and the memory of the
linear probe on embeddings in a file.

    OMP_NUM_THREADS=2 python benchmarks/benchmark_evaluation.py

The embeddings are random numbers, because the cost of neither protocol depends on their values. Rows go to
benchmarks/results/evaluation.csv.
"""

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.knn import Knn
from lejepa_hf.evaluation.protocols.linear_probe import Linear

RESULTS = Path(__file__).parent / "results" / "evaluation.csv"
IMAGENET_TRAIN, IMAGENET_VAL, DIM, NUM_CLASSES = 1_281_167, 50_000, 1024, 1000
COLUMNS = [
    *("what", "images", "queries", "dim", "steps"),
    *("seconds", "grown_mib", "extrapolated_hours", "torch", "threads"),
]


def images(embeddings: torch.Tensor) -> LabelledEmbeddings:
    return LabelledEmbeddings(embeddings, torch.arange(len(embeddings)) % NUM_CLASSES)


def own_mib() -> float:
    """Resident memory without pages mapped from files, which the system can reclaim at any time."""
    resident, shared = map(int, Path("/proc/self/statm").read_text(encoding="utf-8").split()[1:3])
    return (resident - shared) * resource.getpagesize() / 2**20


def time_knn(num_images: int, num_queries: int) -> dict:
    train, test = (images(torch.randn(number, DIM)) for number in (num_images, num_queries))
    started = time.perf_counter()
    Knn().run(train, test)
    seconds = time.perf_counter() - started
    hours = seconds / 3600 * IMAGENET_TRAIN / num_images * IMAGENET_VAL / num_queries
    facts = {"what": "knn", "images": num_images, "queries": num_queries}
    return facts | {"seconds": seconds, "extrapolated_hours": hours}


def memory_of_linear(num_images: int, num_steps: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = np.memmap(Path(folder) / "features", np.float32, "w+", shape=(num_images, DIM))
        rng = np.random.default_rng(0)
        for start in range(0, num_images, 20_000):
            part = file[start : start + 20_000]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        train = images(torch.from_numpy(file))
        test = images(torch.randn(5000, DIM))
        before, started = own_mib(), time.perf_counter()
        Linear().run(train, test, num_steps=num_steps)
        seconds, grown = time.perf_counter() - started, own_mib() - before
    # 12,512 steps of the sweep and as many of the last fit, of seven heads and of one.
    hours = seconds / 3600 * (10 * IMAGENET_TRAIN / 1024) / num_steps
    facts = {"what": "linear", "images": num_images, "steps": num_steps}
    return facts | {"seconds": seconds, "grown_mib": grown, "extrapolated_hours": hours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--knn_images", type=int, default=131_072)
    parser.add_argument("--knn_queries", type=int, default=2048)
    parser.add_argument("--linear_images", type=int, default=IMAGENET_TRAIN)
    parser.add_argument("--linear_steps", type=int, default=20)
    options = parser.parse_args()
    rows = [
        time_knn(options.knn_images, options.knn_queries),
        memory_of_linear(options.linear_images, options.linear_steps),
    ]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            row |= {"dim": DIM, "torch": torch.__version__, "threads": torch.get_num_threads()}
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow(shown)
            print(shown)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak of the process {peak:,.0f} MiB, mapped files included")


if __name__ == "__main__":
    main()
