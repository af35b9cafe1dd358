"""
Speed of the data path: views of JPEGs compared with torchvision's own pipeline, streams compared with map-style
datasets, replay after a resume, and the memory of a worker over an epoch.

    python benchmarks/make_shards.py SHARDS --images 4000 --distinct 1000
    python benchmarks/benchmark_data.py SHARDS [--rounds 5] [--only views reading epoch]

Everything runs on one core (if the system can pin a process to a core), with torch on one thread. The compared
variants alternate within one run; rates are medians over the rounds, and ratios are those of the medians. `epoch`
reads all shards once through one worker, and only runs on request. Writes results/data.csv.
"""

import argparse
import csv
import datetime
import glob
import io
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.loader_workers import prepare_worker
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows

RESULTS = Path(__file__).parent / "results" / "data.csv"
COLUMNS = ["date", "what", "way", "images_per_second", "ratio", "to", "peak_mib", "images", "torch", "torchvision"]
VIEWS = MultiCropTransform(local_crop_size=98)  # 2 x 224 + 6 x 98, the ImageNet recipe
BATCH = 64


def torchvision_view(size: int, scale: list[float], photometric: bool) -> v2.Compose:
    """The published recipe built from torchvision's own operations, on a uint8 tensor."""
    colour = [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(VIEWS.blur_kernel_size, (0.1, 2.0))], 0.5),
        v2.RandomSolarize(128, 0.2),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(VIEWS.image_mean, VIEWS.image_std),
    ]
    crop = v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose([crop, *(colour if photometric else [])])


def torchvision_way(photometric: bool):
    large = torchvision_view(224, VIEWS.global_crop_scale, photometric)
    small = torchvision_view(98, VIEWS.local_crop_scale, photometric)

    def views(jpeg: bytes, number: int) -> list[torch.Tensor]:
        image = v2.functional.pil_to_tensor(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        return [large(image) for _ in range(2)] + [small(image) for _ in range(6)]

    return views


def jpegs(shards: Path, number: int) -> list[bytes]:
    rows = datasets.load_dataset("parquet", data_files=files(shards), split="train", streaming=True)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    return [row["image"]["bytes"] for row in rows.take(number)]


def files(shards: Path) -> list[str]:
    found = sorted(glob.glob(str(shards / "train-*.parquet")))
    if not found:
        raise SystemExit(f"{shards} holds no train-*.parquet: make some with benchmarks/make_shards.py")
    return found


def compare(ways: dict, rounds: int, images: int) -> dict[str, float]:
    """Images per second of CPU time for each variant: medians over rounds in which the variants alternate."""
    times = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            times[name].append(time.process_time() - begin)
    return {name: images / statistics.median(of_way[1:]) for name, of_way in times.items()}


def views_benchmark(shards: Path, rounds: int) -> list[dict]:
    encoded = jpegs(shards, 100)
    full, crops = torchvision_way(photometric=True), torchvision_way(photometric=False)

    def over_all(function):
        return lambda: [function(jpeg, number) for number, jpeg in enumerate(encoded)]

    rates = compare(
        {
            "torchvision v2, all on the CPU": over_all(full),
            "torchvision v2, crops alone": over_all(crops),
            "ours, crops as uint8": over_all(lambda jpeg, number: VIEWS(jpeg, epoch=0, index=number)),
            "decode alone (PIL)": over_all(lambda jpeg, number: np.array(Image.open(io.BytesIO(jpeg)))),
        },
        rounds,
        len(encoded),
    )
    base = rates["torchvision v2, all on the CPU"]
    print(f"JPEG {np.mean([len(jpeg) for jpeg in encoded]) / 1e3:.0f} kB -> 2 x 224 + 6 x 98, images per CPU second")
    return [row("views", way, rate, rate / base, "torchvision v2, all on the CPU") for way, rate in rates.items()]


def loader(dataset, rows_only: bool, start=None) -> DataLoader:
    collate = len if rows_only else MultiCropCollator(VIEWS)
    rows = EndlessRows(dataset, batch_size=BATCH, seed=0, start=start)
    return DataLoader(
        rows,
        batch_size=BATCH,
        collate_fn=collate,
        num_workers=0 if rows_only else 1,
        worker_init_fn=prepare_worker,
    )


def rate_of(dataset, rows_only: bool, images: int) -> float:
    """Images per second, counted after the first batch."""
    batches = iter(loader(dataset, rows_only))
    next(batches)
    begin = time.perf_counter()
    number = sum(BATCH for _ in itertools.islice(batches, images // BATCH))
    return number / (time.perf_counter() - begin)


def reading_benchmark(shards: Path, rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        some = files(shards)[:2]  # as many as fit twice
        sources = {
            "map-style": load_source("parquet", data_files=some).dataset,
            "stream": load_source("parquet", data_files=some, streaming=True).dataset,
        }
        rates: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for way, dataset in sources.items():
                rates.setdefault(("rows, undecoded", way), []).append(rate_of(dataset, True, 2 * BATCH * 16))
                rates.setdefault(("rows to views, one worker", way), []).append(rate_of(dataset, False, BATCH * 16))
            skipped = 3000
            start = [[{"lane": 0, "batches": 0, "passes": [[0, skipped]]}]]
            begin = time.perf_counter()
            next(iter(loader(sources["stream"], True, start)))
            rates.setdefault(("replay after a resume", "stream"), []).append(skipped / (time.perf_counter() - begin))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    print("from local shards, images per second of one core")
    return [
        row(what, way, rate, rate / medians[what, "map-style"], "map-style")
        if (what, "map-style") in medians
        else row(what, way, rate)
        for (what, way), rate in medians.items()
    ]


def epoch_benchmark(shards: Path) -> list[dict]:
    """One worker reads all rows once: its speed and its peak memory."""
    source = load_source("parquet", data_files=files(shards), streaming=True)
    number = source.num_images
    batches = iter(loader(source.dataset, rows_only=False))
    begin = time.perf_counter()
    peaks = []
    for batch in range(number // BATCH):
        next(batches)
        if batch % 50 == 0:
            peaks.append(resident_mib(batches._workers[0].pid))
            print(f"\r{batch * BATCH} images, worker's peak so far {peaks[-1]:.0f} MiB", end="", flush=True)
    print()
    rate = number / (time.perf_counter() - begin)
    return [row("an epoch through one worker", "stream", rate, peak_mib=max(peaks), images=number)]


def resident_mib(process: int) -> float:
    """Most memory the process ever had resident; of Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def row(
    what: str, way: str, rate: float, ratio: float | None = None, to: str = "", peak_mib=None, images=None
) -> dict:
    print(f"  {what:<28} {way:<32} {rate:9.0f}" + (f"  {ratio:6.2f} x {to}" if ratio else ""))
    return {
        "date": datetime.date.today().isoformat(),
        "what": what,
        "way": way,
        "images_per_second": round(rate, 1),
        "ratio": "" if ratio is None else round(ratio, 3),
        "to": to,
        "peak_mib": "" if peak_mib is None else round(peak_mib),
        "images": images or "",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def save(rows: list[dict]) -> None:
    """New rows replace earlier rows of the same measurement."""
    measured = {(new["what"], new["way"]) for new in rows}
    kept = []
    if RESULTS.exists():
        with RESULTS.open() as file:
            kept = [old for old in csv.DictReader(file) if (old["what"], old["way"]) not in measured]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="folder from make_shards.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["views", "reading", "epoch"], default=["views", "reading"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    if "views" in options.only:
        rows += views_benchmark(options.shards, options.rounds)
    if "reading" in options.only:
        rows += reading_benchmark(options.shards, options.rounds)
    if "epoch" in options.only:
        rows += epoch_benchmark(options.shards)
    save(rows)


if __name__ == "__main__":
    main()
