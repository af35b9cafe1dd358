"""Starts measure_run.py, alone or in several processes, and reads what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

from measure_rows import ROOT, tail

SCRIPT = ROOT / "benchmarks" / "measure_run.py"
TINY_VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "image_size": 16, "patch_size": 4, "initializer_range": 0.3}  # fmt: skip
TINY = {"backbone_config": str(TINY_VIT), "projector_dims": "32 32 8", "num_slices": 32, "sigreg_weight": 0.1,
        "global_crop_size": 16, "local_crop_size": 8, "num_local_views": 2, "blur_kernel_size": 5}  # fmt: skip


def settings_of_run(folder: Path, steps: int, batch: int, device: str, tiny: bool, **more) -> dict:
    """A short run of the ViT-S/16 recipe that logs every step; in bf16 on a GPU."""
    found = {"output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": batch, "logging_steps": 1}
    found |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_num_workers": 0 if tiny else 4}
    found |= {"bf16": device == "cuda", "use_cpu": device == "cpu", "streaming": False, "monitors": "embeddings"}
    return found | (TINY if tiny else {}) | more


def start(settings: dict, processes: int = 1, images: int = 256, side: int = 64, die_after: int = 0) -> int:
    """Exit code of the run; RuntimeError with the end of its output if it failed without being killed on purpose."""
    launcher = [sys.executable]
    if processes > 1 or "fsdp" in settings:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, str(SCRIPT), "recipes/imagenet1k/vit_s16.yaml", "--images", str(images), "--side", str(side)]
    command += ["--die_after", str(die_after)] if die_after else []
    for key, value in settings.items():
        command += [f"--{key}", *(str(value).split() if key == "projector_dims" else [str(value)])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(tail(done.stdout + done.stderr), flush=True)
    if done.returncode and not die_after:
        raise RuntimeError(tail(done.stderr or done.stdout))
    return done.returncode


def rows_of(folder: Path) -> list[dict]:
    """The logged steps; of one that was taken twice, the later row."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return list({row["step"]: row for row in map(json.loads, lines) if "loss" in row}.values())


def run_facts(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def largest_difference(found: list[dict], expected: list[dict]) -> float:
    """Of the losses of the same steps, relative."""
    known = {row["step"]: row["loss"] for row in expected}
    return max(abs(row["loss"] / known[row["step"]] - 1) for row in found)
