"""
Part `resume` of measure_gpu.sh: a run in bf16 that is killed, and continued from its checkpoint, against one that is
not interrupted. Another end than the kill, or losses that differ by more than `LARGEST_DIFFERENCE`, are a problem.
"""

import shutil
import signal
import sys

from measure_rows import Rows, options_of_part
from measured_runs import largest_difference, rows_of, settings_of_run, start

# Relative. A CPU repeats itself exactly; on a GPU sums may be taken in another order, and bf16 rounds them.
LARGEST_DIFFERENCE = {"cpu": 0.0, "cuda": 1e-3}
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # of a process itself, and as a shell reports it


def problem_of(device: str, missing: int, exit_code: int, difference: float) -> str:
    """Why a row is no evidence, empty if it is."""
    if missing:
        return f"{missing} steps are missing"
    if exit_code not in KILLED:
        return f"ended with {exit_code} before the kill"
    allowed = LARGEST_DIFFERENCE[device]
    return "" if difference <= allowed else f"losses differ by {difference}, allowed are {allowed}"


def kill_and_resume(options, compiled: bool) -> dict:
    work = options.folder / "work" / f"resume-{compiled}"
    shutil.rmtree(work, ignore_errors=True)
    steps, batch = (6, 4) if options.tiny else (30, 64)
    more = {"save_strategy": "steps", "save_steps": steps // 3, "resume": "auto", "torch_compile": compiled}
    whole, torn = (
        settings_of_run(work / name, steps, batch, options.device, options.tiny, **more) for name in ("whole", "torn")
    )
    start(whole)
    code = start(torn, die_after=steps // 2)
    start(torn)
    found, expected = rows_of(work / "torn"), rows_of(work / "whole")
    after = [row for row in found if row["step"] > steps // 3]
    row = {"precision": "bf16" if options.device == "cuda" else "fp32", "steps": len(found), "exit_code": code}
    row |= {"killed_at": steps // 2, "largest_difference": largest_difference(after, expected)}
    row["problem"] = problem_of(options.device, steps - len(found), code, row["largest_difference"])
    shutil.rmtree(work)
    return row


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    figures = ("precision", "steps", "killed_at", "exit_code", "largest_difference")
    rows = Rows(options.folder / "resume.csv", ("compiled",), figures)
    for compiled in (False,) if options.tiny else (False, True):
        rows.measure({"compiled": compiled}, lambda compiled=compiled: kill_and_resume(options, compiled))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
