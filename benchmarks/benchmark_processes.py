"""
What many processes on one machine cost: a tiny network, started by torchrun in 8 processes with a data worker each.

    python benchmarks/benchmark_processes.py [--processes 8] [--workers 1]

Adds a row to results/processes.csv: seconds from the start of a process to the end of its first step, all-reduces that
SIGReg and the prediction loss take per step, threads of a process, and memory of processes and workers, in which pages
that n processes share count 1 / n.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

from measure_rows import stamp
from measured_runs import run_facts, settings_of_run, start

RESULTS = Path(__file__).parent / "results" / "processes.csv"


def measure(processes: int, workers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # Batch norm and logging reduce as well.
        more = {"projector_norm": "layer", "dataloader_num_workers": workers, "logging_steps": 4}
        begin = time.perf_counter()
        start(settings_of_run(run, 4, 4, "cpu", tiny=True, **more), processes)
        seconds = time.perf_counter() - begin
        ranks = [json.loads(file.read_text(encoding="utf-8")) for file in run.glob("rank-*.json")]
        facts = run_facts(run)
    return {
        "processes": processes,
        "workers": sum(rank["workers"] for rank in ranks),
        "cores": len(os.sched_getaffinity(0)),
        "first_step_seconds": facts["first_step_seconds"],
        "total_seconds": round(seconds, 1),
        "all_reduces_per_step": facts["all_reduces_per_step"],
        "compute_threads": facts["compute_threads"],
        "most_threads": max(rank["threads"] for rank in ranks),
        "processes_mib": sum(rank["process_mib"] for rank in ranks),
        "workers_mib": sum(rank["workers_mib"] for rank in ranks),
        **stamp(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="data workers of each process")
    options = parser.parse_args(arguments)
    row = measure(options.processes, options.workers)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
