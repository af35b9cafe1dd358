"""
Part `tests` of measure_gpu.sh: the tests of operators, losses, photometric, compilation and waits, slow ones included,
on the device; one row per file.
"""

import os
import re
import subprocess
import sys

from measure_rows import ROOT, Rows, options_of_part

FILES = (
    "ops/test_dispatch.py",
    "ops/test_epps_pulley_triton.py",
    "ops/test_photometric_triton.py",
    "ops/test_kernels_compile.py",
    "ops/test_epps_pulley_eager.py",
    "ops/test_epps_pulley_reference.py",
    "losses/test_sigreg.py",
    "losses/test_objective.py",
    "losses/test_prediction.py",
    "losses/test_univariate_statistics.py",
    "data/test_photometric.py",
    "training/test_compilation.py",
    "training/test_no_waits.py",
    "training/test_finite_guard.py",
)
TINY = ("losses/test_prediction.py", "ops/test_epps_pulley_reference.py")
COUNTS = ("passed", "failed", "skipped", "errors")


def run_file(name: str) -> dict:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "slow or not slow", f"tests/{name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    row = {"passed": 0, "failed": 0, "skipped": 0, **counts, "errors": counts.get("error", 0)}
    if done.returncode:
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        row["problem"] = " ".join(failed)[:300] or f"pytest ended with {done.returncode}"
    return row


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    rows = Rows(options.folder / "tests.csv", ("file",), COUNTS)
    for name in TINY if options.tiny else FILES:
        rows.measure({"file": name}, lambda name=name: run_file(name))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
