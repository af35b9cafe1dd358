"""
Part `photometric` of measure_gpu.sh: colours, blur and normalisation of the published views, as fused kernels, one by
one and by torchvision, against the floor: the time in which a copy moves as many bytes.
"""

import sys

from benchmark_photometric import SHAPES, measure
from measure_rows import Rows, options_of_part
from measure_sigreg import device_speed

CASE = ("images", "views", "side")
MEASURED = ("ms_per_view", "ms_20", "ms_80", "times_faster_than_torchvision_uint8")
BYTES_PER_VALUE = 1 + 4  # read as a byte, written in fp32


def with_floor(rows: list[dict], side: int, bytes_per_second: float) -> list[dict]:
    floor = 1e3 * BYTES_PER_VALUE * 3 * side**2 / bytes_per_second
    return [
        row | {"floor_ms": float(f"{floor:.3g}"), "times_floor": round(row["ms_per_view"] / floor, 2)} for row in rows
    ]


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    rows = Rows(options.folder / "photometric.csv", CASE, ("implementation", *MEASURED, "floor_ms", "times_floor"))
    speed, _ = device_speed(options.device, 256 if options.tiny else 8192)
    rounds, sizes = (1, (2,)) if options.tiny else (7, (32, 128))
    for images in sizes:
        for views, side in ((2, 16),) if options.tiny else SHAPES:
            case = dict(zip(CASE, (images, views, side), strict=True))

            def found(case=case) -> list[dict]:
                measured = measure(case["views"], case["side"], options.device, case["images"], rounds)
                return with_floor(measured, case["side"], speed)

            rows.measure(case, found)
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
