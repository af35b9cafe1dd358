"""
One run of LeJEPATrainer on generated images, which the parts of measure_gpu.sh start in processes of their own. It
needs neither `datasets` nor a network.

    python benchmarks/measure_run.py RECIPE [--images 256] [--side 64] [--die_after STEP] [--key value ...]

Further `--key value` pairs override the recipe. With `--die_after` the process kills itself after that step. Losses
are in metrics.jsonl of the run's folder, what was measured in run.json, and of each process in rank-N.json.
"""

import argparse
import io
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

BEGIN = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from lejepa_hf import (  # noqa: E402
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    MultiCropCollator,
    MultiCropTransform,
)
from lejepa_hf.runs.recipes import parse_recipe  # noqa: E402


def images(number: int, side: int) -> list[dict]:
    """JPEG files of coarse random patterns."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(number):
        file = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side)).save(file, "JPEG")
        rows.append({"image": file.getvalue()})
    return rows


class Watch(TrainerCallback):
    """
    Counts all-reduces of numbers that Python calls per step (DDP's own of the gradient are not among them), notes when
    the first step ends and what the process then uses, and kills it after a step.
    """

    def __init__(self, die_after: int):
        self.die_after, self.calls, self.per_step, self.first = die_after, [], [], 0.0
        all_reduce = dist.all_reduce

        def counted(tensor, *args, **kwargs):
            if tensor.is_floating_point():  # other ones are flags between hosts
                self.calls.append(tensor.numel())
            return all_reduce(tensor, *args, **kwargs)

        dist.all_reduce = counted

    def on_step_end(self, args, state, control, **kwargs):
        self.per_step.append(len(self.calls))
        self.calls.clear()
        if not self.first:
            self.first = time.perf_counter() - BEGIN
            (Path(args.output_dir) / f"rank-{args.process_index}.json").write_text(
                json.dumps(usage()), encoding="utf-8"
            )
        if state.global_step == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)


def usage() -> dict:
    """Threads and proportional memory of this process and of its data workers (Linux only)."""
    tasks = Path("/proc/self/task")
    children = [child for task in tasks.iterdir() for child in (task / "children").read_text("utf-8").split()]
    mib = {"process_mib": proportional_mib("self"), "workers_mib": sum(map(proportional_mib, children))}
    return {"threads": len(list(tasks.iterdir())), "workers": len(children), **mib}


def proportional_mib(process: str) -> int:
    """Memory of a process, in which pages that n processes share count 1 / n."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text("utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)


def let_fsdp_run_on_cpu() -> None:
    """Accelerate would run DDP instead; for dry runs only."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from trajectory_run import let_fsdp_run_on_cpu

    let_fsdp_run_on_cpu()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--die_after", type=int, default=0)
    options, overrides = parser.parse_known_args(arguments)
    if "--fsdp" in overrides and not torch.cuda.is_available():
        let_fsdp_run_on_cpu()
    recipe = parse_recipe(options.recipe, [*overrides, "--eval_split", "null", "--report_to", "none"])
    torch.manual_seed(0)
    config = LeJEPAConfig(backbone_config=recipe.model.backbone_config, **recipe.model.config_kwargs())
    watch = Watch(options.die_after)
    trainer = LeJEPATrainer(
        LeJEPAForPreTraining(config),
        recipe.training,
        images(options.images, options.side),
        MultiCropCollator(MultiCropTransform.from_settings(recipe.data, recipe.training.seed)),
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(str(Path(recipe.training.output_dir) / "pretraining"))
    if trainer.is_world_process_zero():
        on_gpu = torch.cuda.is_available()
        found = {
            "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
            "first_step_seconds": round(watch.first, 1),
            "all_reduces_per_step": statistics.mode(watch.per_step),  # steps that are logged have more
            "compute_threads": torch.get_num_threads(),
        }
        (Path(recipe.training.output_dir) / "run.json").write_text(json.dumps(found), encoding="utf-8")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
