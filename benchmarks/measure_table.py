"""The rows of measure_gpu.sh as one Markdown table, for docs/measurements.md: `python measure_table.py FOLDER`."""

import csv
import sys
from pathlib import Path

Row = dict[str, str]


def read(folder: Path, pattern: str) -> list[Row]:
    rows = []
    for file in sorted(folder.glob(pattern)):
        with file.open(encoding="utf-8", newline="") as opened:
            rows += list(csv.DictReader(opened))
    return rows


def tests_line(row: Row) -> tuple[str, str, str]:
    return "tests", row["file"], f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped"


def sigreg_line(row: Row) -> tuple[str, str, str]:
    sizes = "{views} x {images}, {dim}, {slices}, {knots}, {dtype}".format(**row)
    faster = row["times_faster_than_reference"]
    against = f"{faster} x the plain formula's speed, " if faster and row["implementation"] != "reference" else ""
    times = f"{row['forward_backward_ms']} ms, {row['queued_ms']} ms in a row"
    figures = f"{times}, {against}{row['times_floor']} x the floor, {row['peak_mib']} MiB"
    return "SIGReg", f"{sizes}: {row['implementation']}", figures


def photometric_line(row: Row) -> tuple[str, str, str]:
    case = "{images} x {views} views of {side} pixels: {implementation}".format(**row)
    faster = f"{row['times_faster_than_torchvision_uint8']} x torchvision's speed"
    return "colours and blur", case, f"{row['ms_per_view']} ms per view, {faster}, {row['times_floor']} x the floor"


def training_line(row: Row) -> tuple[str, str, str]:
    how = f"{'compiled' if row['compiled'] == 'True' else 'eager'}, {row['precision']}, {row['images']}"
    mfu = f", MFU {row['mfu']}" if row["mfu"] else ""
    bare = f", {row['times_faster_than_bare']} x the bare loop" if row["way"] != "bare loop" else ""
    figures = f"{row['images_per_second']} images/s{mfu}{bare}, {row['peak_mib']} MiB, data {row['data_share']}"
    return "step", f"{row['model']}, batch {row['batch']}, {how}: {row['way']}", figures


def resume_line(row: Row) -> tuple[str, str, str]:
    how = f"{row['precision']}, {'compiled' if row['compiled'] == 'True' else 'eager'}"
    figures = f"killed after {row['killed_at']} of {row['steps']} steps, losses differ by {row['largest_difference']}"
    return "kill and resume", how, figures


def ranks_line(row: Row) -> tuple[str, str, str]:
    speed = f"{row['images_per_second']} images/s, efficiency {row['efficiency']}, {row['peak_mib']} MiB"
    figures = speed if row["images_per_second"] else f"differ by {row['largest_difference']}"
    return "several", f"{row['what']}, {row['kind']}, {row['processes']} processes", figures


def decoding_line(row: Row) -> tuple[str, str, str]:
    pixels = f", pixels differ by {row['mean_difference']} of 255, at most {row['largest_difference']}"
    figures = f"{row['images_per_second']} images/s, {row['cores']} cores{pixels if row['mean_difference'] else ''}"
    return "JPEG images", f"batch {row['batch']}: {row['how']}", figures


def cifar10_line(row: Row) -> tuple[str, str, str]:
    top1 = f", linear {row['linear_top1']}, k-NN {row['knn_top1']}" if row["knn_top1"] else ""
    images = "generated images" if row["images"] == "generated" else "CIFAR-10"
    return "recipe of CIFAR-10", images, f"{row['steps']} steps, {row['images_per_second']} images/s{top1}"


LINES = {
    "tests.csv": tests_line,
    "sigreg.csv": sigreg_line,
    "photometric.csv": photometric_line,
    "training-*.csv": training_line,
    "resume.csv": resume_line,
    "ranks.csv": ranks_line,
    "decoding.csv": decoding_line,
    "cifar10.csv": cifar10_line,
}


def table(folder: Path) -> list[str]:
    """Lines of Markdown: where and when, then one line for each row; those that failed show why."""
    rows = [(line, row) for pattern, line in LINES.items() for row in read(folder, pattern)]
    if not rows:
        return ["Nothing measured yet."]
    found = {
        "On {gpu}, torch {torch}, transformers {transformers}, {date}, commit {commit}".format(**row)
        for _, row in rows
    }
    lines = [*sorted(found), "", "| what | case | figures |", "|---|---|---|"]
    for line, row in rows:
        what, case, figures = line(row)
        if row["problem"]:
            figures = row["problem"].replace("|", "/")
            case = ", ".join(list(row.values())[:3]) if line is not tests_line else case
        lines.append(f"| {what} | {case} | {figures} |")
    return lines


def main(arguments: list[str]) -> None:
    print("\n".join(table(Path(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
