"""
Part `sigreg` of measure_gpu.sh: SIGReg over sizes, against the plain formula, lightly's where it is installed, and the
floor: the time that the device needs at least for the bytes and operations, at the speeds that it reaches in a copy
and in an fp32 matrix product.
"""

import sys
import time

import torch
from benchmark_sigreg import BASE, GRID, measure, synchronize
from measure_rows import Rows, options_of_part

MEASURED = (
    "forward_ms", "forward_backward_ms", "queued_ms", "kept_mib", "peak_mib", "times_faster_than_reference",
)  # fmt: skip
CASE = ("views", "images", "dim", "slices", "knots", "dtype")


def cases(tiny: bool) -> list[dict]:
    """The goal's size first; it has 4,096 slices."""
    if tiny:
        return [{**BASE, "images": 16, "slices": slices} for slices in (8, 16)]
    found = [{**BASE, "slices": 4096}, BASE, *(BASE | {field: value} for field in GRID for value in GRID[field])]
    return list({tuple(case.items()): case for case in found}.values())


def bytes_and_operations(case: dict) -> tuple[int, int]:
    """
    What forward and backward need at least: projections and directions are read in both, the gradient is written;
    three matrix products, one of them the projection again, and for each knot a rotation and two sums forward, a
    rotation and two products backward.
    """
    samples = case["views"] * case["images"]
    width = 4 if case["dtype"] == "float32" else 2
    moved = 3 * samples * case["dim"] * width + 2 * case["dim"] * case["slices"] * 4
    operations = 6 * samples * case["dim"] * case["slices"] + 14 * samples * case["slices"] * case["knots"]
    return moved, operations


def device_speed(device: str, side: int) -> tuple[float, float]:
    """Bytes per second of a copy, and operations per second of a product of `(side, side)` matrices in fp32."""
    left, right = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    copied = torch.randn(4 * side * side, device=device)

    def seconds(call) -> float:
        times = []
        for _ in range(5):
            synchronize(device)
            begin = time.perf_counter()
            call()
            synchronize(device)
            times.append(time.perf_counter() - begin)
        return min(times)

    return 8 * copied.numel() / seconds(copied.clone), 2 * side**3 / seconds(lambda: left @ right)


def with_floor(rows: list[dict], case: dict, speeds: tuple[float, float]) -> list[dict]:
    moved, operations = bytes_and_operations(case)
    floor = 1e3 * max(moved / speeds[0], operations / speeds[1])
    # Of steps in a row: one that is waited for has the time of its launches in it.
    return [row | {"floor_ms": round(floor, 4), "times_floor": round(row["queued_ms"] / floor, 2)} for row in rows]


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    rows = Rows(options.folder / "sigreg.csv", CASE, ("implementation", *MEASURED, "floor_ms", "times_floor"))
    speeds = device_speed(options.device, 256 if options.tiny else 8192)
    print(f"{speeds[0] / 1e9:.0f} GB/s, {speeds[1] / 1e12:.2f} TFLOPS in fp32", flush=True)
    rounds = 1 if options.tiny else 5
    for case in cases(options.tiny):
        rows.measure(case, lambda case=case: with_floor(measure(case, options.device, rounds), case, speeds))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
