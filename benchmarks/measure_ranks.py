"""
Part `ranks` of measure_gpu.sh, with two or more GPUs: DDP and FSDP2 against one GPU on the same global batches, speed
against the number of GPUs, a sharded checkpoint resumed on half of them, and an evaluation on all of them. Without
GPUs, two processes on the CPU for a dry run.
"""

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from measure_rows import ROOT, Rows, options_of_part, tail
from measured_runs import largest_difference, rows_of, run_facts, settings_of_run, start

from lejepa_hf import export_encoder

FSDP = {"fsdp": True, "fsdp_config": json.dumps({"version": 2, "state_dict_type": "SHARDED_STATE_DICT"})}
FIGURES = ("largest_difference", "images_per_second", "efficiency", "peak_mib", "first_step_seconds")


class Measure:
    """The cases; runs that others are compared with are kept in `work` below the folder."""

    def __init__(self, options, processes: int):
        self.device, self.tiny, self.processes = options.device, options.tiny, processes
        self.work = options.folder / "work" / "ranks"

    def run(self, name: str, kind: str, processes: int, steps: int, batch: int, images: int = 256, **more) -> Path:
        """A run in fp32 without what ranks draw for themselves; one that is complete is not repeated."""
        folder = self.work / name
        if not (folder / "run.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            settings = settings_of_run(folder, steps, batch // processes, self.device, self.tiny, **more)
            start(settings | (FSDP if kind == "fsdp" else {}), processes, images)
        return folder

    def exact(self, name: str, kind: str, processes: int, **more) -> Path:
        steps, batch = (4, 8) if self.tiny else (12, 8 * self.processes)
        more = {"drop_path_rate": 0.0, "bf16": False} | more
        return self.run(name, kind, processes, steps, batch, **more)

    def sharded(self) -> Path:
        every = 2 if self.tiny else 6
        return self.exact("fsdp", "fsdp", self.processes, save_strategy="steps", save_steps=every)

    def equal(self, kind: str, processes: int) -> dict:
        alone = self.exact("alone", "alone", 1)
        together = self.sharded() if kind == "fsdp" else self.exact("ddp", "ddp", processes)
        return {"largest_difference": largest_difference(rows_of(together), rows_of(alone))}

    def resharded(self, kind: str, processes: int) -> dict:
        """From half of the steps on, with `processes` instead of all."""
        checkpoint = min(self.sharded().glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        resumed = self.exact("resharded", kind, processes, resume=str(checkpoint))
        return {"largest_difference": largest_difference(rows_of(resumed), rows_of(self.sharded()))}

    def speed(self, kind: str, processes: int) -> dict:
        steps, batch = (4, 4) if self.tiny else (40, 128)
        rates = {}
        for wrapped, number in (("alone", 1), (kind, processes)):
            # At least a global batch of images, and several, so that an epoch does not end at every step.
            images = max(256, 4 * batch * number)
            folder = self.run(f"speed-{wrapped}-{number}", wrapped, number, steps, batch * number, images)
            rates[wrapped] = statistics.median(row["images_per_second"] for row in rows_of(folder)[steps // 2 :])
        efficiency = rates[kind] / rates["alone"] / processes
        return {"images_per_second": rates[kind], "efficiency": round(efficiency, 4), **run_facts(folder)}

    def evaluation(self, kind: str, processes: int) -> dict:
        """k-NN on digits by all processes and by one: accuracies, as shares."""
        figures = [self.evaluate(number) for number in (1, processes)]
        return {"largest_difference": max(abs(figures[0][name] - figures[1][name]) for name in figures[0])}

    def evaluate(self, processes: int) -> dict[str, float]:
        encoder = export_encoder(self.exact("alone", "alone", 1))
        out = self.work / f"evaluation-{processes}.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m", "lejepa_hf", "evaluate", str(encoder), "--dataset", "digits", "--protocol", "knn"]
        done = subprocess.run([*command, "--no_cache", "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(tail(done.stderr))
        (encoder,) = json.loads(out.read_text(encoding="utf-8"))["encoders"].values()
        return encoder["results"]


def cases(processes: int, tiny: bool) -> list[tuple[str, str, int]]:
    """What, how the model is wrapped, number of processes."""
    found = [("equal", "ddp", processes), ("equal", "fsdp", processes), ("resharded", "fsdp", processes // 2)]
    if tiny:
        return [*found, ("speed", "ddp", processes)]
    powers = [2**power for power in range(1, 10) if 2**power <= processes]
    found += [("speed", "ddp", number) for number in powers] + [("speed", "fsdp", processes)]
    # `lejepa evaluate` reads its images with `datasets`.
    return found + ([("evaluation", "alone", processes)] if importlib.util.find_spec("datasets") else [])


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    processes = torch.cuda.device_count() if options.device == "cuda" else 2
    if processes < 2:
        sys.exit("This part needs two GPUs.")
    rows = Rows(options.folder / "ranks.csv", ("what", "kind", "processes"), FIGURES)
    measure = Measure(options, processes)
    for what, kind, number in cases(processes, options.tiny):
        case = {"what": what, "kind": kind, "processes": number}
        rows.measure(case, partial(getattr(measure, what), kind, number))
    shutil.rmtree(measure.work, ignore_errors=True)
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
