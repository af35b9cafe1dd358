"""Checks that what runs is what the launcher was set to: processes, devices, backend, folder."""

import os
import secrets
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments

_NETWORK_DISK_SECONDS = 10
_CPU_COMMAND = "`torchrun --nproc-per-node N -m lejepa_hf train RECIPE --use_cpu`"
_GPU_COMMAND = "`accelerate launch --config_file $(lejepa recipes accelerate/ddp) -m lejepa_hf train RECIPE`"
_FSDP_FILE = "`--config_file $(lejepa recipes accelerate/fsdp2)`"


def check_launch(args: TrainingArguments) -> None:
    """
    Refuse launches where several processes would each train alone, one process was started instead of several, or one
    process would use several GPUs through `DataParallel`; the message names the command to use.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > args.world_size:
        raise ValueError(
            f"The launcher started {started} processes, but each of them would train alone: PyTorch has no backend to "
            f"join them on {args.device.type}. Set `use_cpu`, as in {_CPU_COMMAND}, or start one process."
        )
    # What Accelerate's launcher leaves behind when it starts one CPU process instead of several: an address.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "`accelerate launch` was set to several processes but started one, as it does on the CPU: use "
            f"{_CPU_COMMAND}, or leave `--num_processes` out (and unset MASTER_ADDR) for one process."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"One process would use {args.n_gpu} GPUs through `torch.nn.DataParallel`, which computes SIGReg for the "
            f"images of each GPU alone and is slow: use {_GPU_COMMAND}, or set CUDA_VISIBLE_DEVICES=0 for one GPU."
        )


def check_backend(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Refuse DDP or a single process where FSDP is requested, and FSDP 1 and DeepSpeed."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        raise ValueError(f"DeepSpeed is not supported: use FSDP2, {_FSDP_FILE}.")
    requested = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if requested and kind != DistributedType.FSDP:
        instead = f"DDP on {args.world_size} processes" if args.world_size > 1 else "a single process"
        raise ValueError(
            f"FSDP is requested, but Accelerate would run {instead} on {args.device.type}, where it has no FSDP: "
            f"use {_CPU_COMMAND} without FSDP, or a machine with GPUs."
        )
    if kind == DistributedType.FSDP and (version := accelerator.state.fsdp_plugin.fsdp_version) != 2:
        raise ValueError(
            f"`fsdp_version` is {version}: only FSDP2 is supported, `fsdp_version: 2` in the `fsdp_config` of "
            f"Accelerate's file, as in {_FSDP_FILE}."
        )


def check_shared_folder(folder: str | Path, rank: int, world_size: int) -> None:
    """
    Create the run folder and refuse it, on every rank, if some ranks do not see what rank 0 writes there: checkpoints
    hold a part of every rank. Every rank must call this.
    """
    if world_size == 1:
        return
    marks = [f".mark-{secrets.token_hex(8)}"]
    broadcast_object_list(marks)
    mark = Path(folder) / marks[0]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if rank == 0:
        mark.touch()
    written = gather_object([rank])  # a barrier
    seen = gather_object([_appears(mark)])
    if rank == 0:
        mark.unlink()
    blind = ", ".join(str(number) for number, sees in zip(written, seen, strict=True) if not sees)
    if blind:
        raise ValueError(
            f"`output_dir` {str(folder)!r} is not the same folder for all processes: rank {blind} does not see what "
            "rank 0 writes there. Choose a folder on a disk that all nodes share."
        )


def check_same_everywhere(values: dict[str, Any]) -> None:
    """
    Refuse, on every rank, a launch whose ranks do not have the same values of what is named: commands that were typed
    differently on two nodes, or copies of the images of which one is incomplete. Every rank must call this.
    """
    first, *others = gather_object([values])
    for rank, other in enumerate(others, start=1):
        for name in first | other:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"{name} is {first.get(name)!r} on rank 0, but {other.get(name)!r} on rank {rank}: start all "
                    "processes with the same command, recipe and images."
                )


def _appears(path: Path) -> bool:
    """Whether a file of another node appears before network disks have renewed their listings."""
    end = time.monotonic() + _NETWORK_DISK_SECONDS
    while not (found := path.name in os.listdir(path.parent)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def describe_launch(args: TrainingArguments, accelerator: Accelerator) -> str:
    """One line: how many processes, joined by what, on which device, in which precision."""
    joined = ""
    if args.world_size > 1:
        backend = accelerator.state.backend
        joined = f", {'FSDP2' if accelerator.distributed_type == DistributedType.FSDP else 'DDP'} over {backend}"
    noun = "process" if args.world_size == 1 else "processes"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{args.world_size} {noun}{joined} on {args.device.type}, {precision}"
