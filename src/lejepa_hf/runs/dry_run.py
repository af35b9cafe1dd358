"""A dry run: a short training in a process of its own that measures speed, waiting for views, and memory."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.errors import DataError
from ..system.run_folder import RunFolder
from .pretraining import build
from .recipes import Recipe, parse_recipe
from .resolving import resolve

_WARM_UP = 2  # steps: memory is laid out, workers start
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_RESULT = "dry_run.json"


@dataclass(frozen=True)
class DryRun:
    """
    Speed and peak memory of a training process, measured. The speed follows from the median of the steps' times and
    their mean waiting time: other work of the machine for a moment does not count, batches that come late do.
    """

    steps: int  # after the warm-up
    images_per_second: float
    data_wait_fraction: float  # share of the time in which training waited for views
    process_bytes: int  # resident, without workers
    worker_bytes: int  # resident in the largest worker, pages shared with the process included
    allocated_bytes: int  # on the GPU; 0 on a CPU
    reserved_bytes: int  # on the GPU, for allocations; 0 on a CPU


def dry_run(recipe: Recipe, batch_size: int, seconds: float = 10.0) -> DryRun | None:
    """
    Train for some seconds after a warm-up, in a new process, with the model, loader, workers and optimiser of a run
    but another batch size, and throw the result away. None if there was not enough memory; a recipe that cannot be run
    raises the ValueError of training.
    """
    # A process of a launcher does its dry run alone, on its own device.
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHERS}
    if recipe.training.device.type == "cuda":
        visible, number = os.environ.get("CUDA_VISIBLE_DEVICES"), recipe.training.local_process_index
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(folder).write_start(recipe.resolved())
        command = [sys.executable, "-m", "lejepa_hf.runs.dry_run", folder, str(batch_size), str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        written = Path(folder) / _RESULT
        if written.exists():
            result = json.loads(written.read_text(encoding="utf-8"))
            if "error" in result:
                raise ValueError(result["error"])
            return DryRun(**result) if result else None
    if done.returncode == -signal.SIGKILL:  # what Linux does when memory runs out
        return None
    raise RuntimeError(f"The dry run failed:\n{done.stderr[-4000:]}")


class Stopwatch(TrainerCallback):
    """
    Collects the logged speed of every step after the warm-up, and ends the run after `seconds` of them. The batches
    that workers `prefetched` while the first steps were slow are used up first, for as many seconds at most.
    """

    def __init__(self, seconds: float, prefetched: int) -> None:
        self.seconds, self.prefetched = seconds, prefetched
        self.busy: list[float] = []
        self.waited: list[float] = []
        self.result: DryRun | None = None

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Start the clock."""
        self.begin = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Take the times of the last step."""
        if not logs or "images_per_second" not in logs or state.global_step <= _WARM_UP:
            return
        images = args.per_device_train_batch_size * args.gradient_accumulation_steps
        if state.global_step <= _WARM_UP + self.prefetched and time.perf_counter() - self.begin < self.seconds:
            return
        elapsed = images / logs["images_per_second"]
        self.waited.append(logs["data_wait_fraction"] * elapsed)
        self.busy.append(elapsed - self.waited[-1])
        if len(self.busy) >= _WARM_UP and sum(self.busy) + sum(self.waited) >= self.seconds:
            control.should_training_stop = True
            waited = statistics.mean(self.waited)
            step = statistics.median(self.busy) + waited
            on_gpu = args.device.type == "cuda"
            self.result = DryRun(
                steps=len(self.busy),
                images_per_second=images / step,
                data_wait_fraction=waited / step,
                process_bytes=peak_resident_bytes(),
                worker_bytes=max((peak_resident_bytes(worker.pid) for worker in active_children()), default=0),
                allocated_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
                reserved_bytes=torch.cuda.max_memory_reserved() if on_gpu else 0,
            )


def peak_resident_bytes(process: int | None = None) -> int:
    """Peak resident memory of a process, this one if none is named; 0 for another one where there is no /proc."""
    status = Path(f"/proc/{process or os.getpid()}/status")
    if status.exists():
        return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024
    if process is not None:
        return 0
    import resource

    # macOS counts bytes, others kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(folder: str, batch_size: str, seconds: str) -> dict[str, Any]:
    """The training in the new process; it writes nothing outside of `folder`."""
    settings = {"output_dir": f"{folder}/run", "per_device_train_batch_size": batch_size, "max_steps": "1000000"}
    settings |= {"logging_steps": "1", "save_strategy": "no", "report_to": "none", "push_to_hub": "false"}
    settings |= {
        "eval_split": "null",
        "group_column": "null",
        "eval_strategy": "no",
        "load_best_model_at_end": "false",
    }
    settings |= {"disable_tqdm": "true", "resume": "null"}
    try:
        arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
        trainer, _ = build(resolve(parse_recipe(Path(folder) / "recipe.yaml", arguments)))
        workers, ahead = trainer.args.dataloader_num_workers or 0, trainer.args.dataloader_prefetch_factor or 2
        stopwatch = Stopwatch(float(seconds), workers * ahead)
        trainer.add_callback(stopwatch)
        trainer.train()
    except (torch.OutOfMemoryError, MemoryError):
        return {}
    except (ValueError, DataError, FloatingPointError) as error:
        return {"error": str(error)}
    assert stopwatch.result is not None, "training lasts until it is there"
    return asdict(stopwatch.result)


if __name__ == "__main__":
    found = main(*sys.argv[1:])
    (Path(sys.argv[1]) / _RESULT).write_text(json.dumps(found), encoding="utf-8")
