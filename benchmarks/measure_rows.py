"""Rows of the measuring hour (measure_gpu.sh): each one is on the disk before the next one is measured."""

import argparse
import csv
import datetime
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
STAMP = ("problem", "seconds", "date", "gpu", "torch", "transformers", "commit")


class Rows:
    """
    A CSV file with the columns `case`, which name what is measured, `figures`, and what every file has. Cases that it
    holds are not measured again; what a kill left of a line is cut off.
    """

    def __init__(self, file: Path, case: tuple[str, ...], figures: tuple[str, ...]):
        self.file, self.case, self.names = file, case, (*case, *figures, *STAMP)
        if not file.exists():
            file.write_text(",".join(self.names) + "\n", encoding="utf-8")
        content = file.read_bytes()
        if not content.endswith(b"\n"):
            file.write_bytes(content[: content.rfind(b"\n") + 1])

    def read(self) -> list[dict[str, str]]:
        with self.file.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def has(self, case: dict) -> bool:
        return any(all(row[name] == str(case[name]) for name in self.case) for row in self.read())

    def measure(self, case: dict, function: Callable[[], dict | list[dict]]) -> None:
        """Add what `function` returns, one row or several, unless the case is there. An error is a row as well."""
        if self.has(case):
            print(f"{case}: measured earlier", flush=True)
            return
        begin = time.perf_counter()
        try:
            found = function()
        except Exception as error:  # noqa: BLE001, the other cases can still be measured
            found = {"problem": f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"[:300]}
        seconds = round(time.perf_counter() - begin, 1)
        rows = found if isinstance(found, list) else [found]
        self._write([{**row, **case, "seconds": seconds, **stamp()} for row in rows])

    def _write(self, rows: list[dict]) -> None:
        """All rows of a case at once, because a case with one row is not measured again."""
        text = io.StringIO()
        csv.DictWriter(text, self.names, extrasaction="ignore", lineterminator="\n").writerows(rows)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        print(text.getvalue(), end="", flush=True)

    def problems(self) -> int:
        """1 if a case has failed, as an exit status."""
        return int(any(row["problem"] for row in self.read()))


def stamp() -> dict[str, str]:
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    has_git = shutil.which("git") is not None  # not on every machine that is lent
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip() if has_git else ""
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit,
    }


def options_of_part(description: str) -> argparse.ArgumentParser:
    """What every part is called with."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where its rows are kept")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a dry run")
    return parser


def tail(output: str, lines: int = 12) -> str:
    """The end of what a process printed, for an error."""
    return " | ".join(output.strip().splitlines()[-lines:])[-1500:]
