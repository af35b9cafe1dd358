"""The only file that calls torch.distributed."""

import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx

from .error_text import reason_of
from .restricted_pickle import read_pickle

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# Everything that the `.metadata` of a folder of shards may name, besides dtypes: data classes, paths and a lookup.
_CLASSES_OF_SHARDS = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
}


def world_size() -> int:
    """Number of ranks in the default process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this process writes what all ranks have in common."""
    return world_size() == 1 or dist.get_rank() == 0


def process_index() -> int:
    """Rank of this process, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def join_processes() -> None:
    """
    Form the process group of the processes that a launcher has started; a single process needs none. They wait for
    each other for up to seven days: the first one may work alone for hours, and a launcher ends all when one has died.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))


def wait_for_all() -> None:
    """Return when every rank has called this function."""
    if world_size() > 1:
        dist.barrier()


class OtherRankFailed(RuntimeError):
    """What another rank could not do, see [`failing_together`]."""


@contextmanager
def failing_together() -> Iterator[None]:
    """
    Do something on every rank and wait for all of them. If one fails, every rank does: there with its own error, on
    the others with [`OtherRankFailed`], so that nobody waits for it later.
    """
    with _failing_with(_reasons_of_group if world_size() > 1 else _reasons_of_one):
        yield


@contextmanager
def starting_together() -> Iterator[None]:
    """
    Like [`failing_together`], once, before the processes that a launcher has started form their group: that would wait
    half an hour for a process of another node that has refused its command.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
    with _failing_with(_reasons_at_start if several else _reasons_of_one):
        yield


@contextmanager
def _failing_with(reasons_of_all: Callable[[str], list[str]]) -> Iterator[None]:
    """Fail if any rank does; the reasons are empty where nothing failed."""
    error: Exception | None = None
    try:
        yield
    except Exception as failure:  # whatever it is, the others have to know
        error = failure
    reasons = reasons_of_all("" if error is None else f"{type(error).__name__}: {reason_of(error)}")
    failed = [f"rank {rank}, {reason}" for rank, reason in enumerate(reasons) if reason]
    if error is not None:
        raise error
    if failed:
        raise OtherRankFailed("; ".join(failed))


def _reasons_of_one(reason: str) -> list[str]:
    return [reason]


def _reasons_of_group(reason: str) -> list[str]:
    reasons = [""] * world_size()
    dist.all_gather_object(reasons, reason)
    return reasons


def _reasons_at_start(reason: str) -> list[str]:
    store, rank, size = _launcher_store()
    keys = [f"start of rank {other}" for other in range(size)]
    store.set(keys[rank], reason)
    reasons = [store.get(key).decode() for key in keys]
    if store.add("ranks that know", 1) == size:  # torchrun may keep the store for the processes of its next attempt
        for key in (*keys, "ranks that know"):
            store.delete_key(key)
    return reasons


@cache  # it may be this process that serves it to the others
def _launcher_store() -> tuple[dist.Store, int, int]:
    """The store over which the group will be formed, rank and number of processes."""
    return next(iter(dist.rendezvous("env://")))


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process has failed, ended or cannot be reached, not what this one did."""
    lost = (dist.DistBackendError, dist.DistNetworkError) if dist.is_available() else ()
    # gloo has no class of its own.
    return isinstance(error, (OtherRankFailed, *lost)) or "/gloo/transport/" in str(error)


def explain_lost_process(error: RuntimeError) -> str:
    """One such error as a sentence."""
    rank, reason = os.environ.get("RANK", "0"), re.sub(r"^\[\S+\] ", "", reason_of(error).split(". ")[0])
    return (
        f"rank {rank} stops, because another process has ended or cannot be reached ({reason}); what that one printed "
        "says why."
    )


@contextmanager
def shared_temporary_folder() -> Iterator[Path]:
    """A temporary folder for all ranks of a machine or of a shared file system; deleted when the last one is done."""
    path = [tempfile.mkdtemp(prefix="lejepa-") if is_first_rank() else ""]
    if world_size() > 1:
        dist.broadcast_object_list(path)
    try:
        yield Path(path[0])
        wait_for_all()
    finally:
        if is_first_rank():
            shutil.rmtree(path[0], ignore_errors=True)


class _Context(FunctionCtx):
    factor: int


class _ScaledGradient(torch.autograd.Function):
    """A value that is computed without gradients; `part` receives `factor` times its gradient."""

    @staticmethod
    def forward(ctx: _Context, part: torch.Tensor, value: torch.Tensor, factor: int) -> torch.Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: _Context, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad * ctx.factor, None, None


def sum_for_loss(tensor: torch.Tensor) -> torch.Tensor:
    """
    Sum over ranks of a tensor of the same shape and dtype, from which every rank computes the same loss.

    DDP and FSDP average gradients over the W ranks, but the gradient of a sum over ranks is the sum of the ranks'
    parts. So each part passes back W times the incoming gradient, with no collective in backward: after averaging,
    parameters receive exactly the gradient of one process on the joined batch, also when ranks hold unequal batches.
    """
    return _ScaledGradient.apply(tensor, total_over_ranks(tensor), world_size()) if world_size() > 1 else tensor


def sum_of_parts_for_loss(part: torch.Tensor, total: torch.Tensor, num_parts: int) -> torch.Tensor:
    """
    Like [`sum_for_loss`], with the known `total` of the parts of all ranks and `num_parts` micro-batches.

    If gradients are averaged over W ranks and `num_parts` micro-batches, each part must pass back W times `num_parts`
    times the incoming gradient, so that the average is the sum of all parts' gradients.
    """
    return _ScaledGradient.apply(part, total, world_size() * num_parts)


def total_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks of a tensor of the same shape and dtype: a new tensor, without a gradient."""
    total = tensor.detach().clone().contiguous()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def stack_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks, of the same shape and dtype, as `(world_size, *tensor.shape)`, without a gradient."""
    if world_size() == 1:
        return tensor.detach()[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)


def gather_for_loss(tensor: torch.Tensor) -> torch.Tensor:
    """
    The images of all ranks in their order, for a loss that is not a function of sums: `(V, B, ...)`, where B may
    differ between ranks, becomes `(V, sum of B, ...)`. Gradients as in [`sum_for_loss`]; the host waits for the sizes.
    """
    if world_size() == 1:
        return tensor
    sizes = stack_over_ranks(torch.tensor(tensor.shape[1], device=tensor.device)).tolist()
    padded = tensor.new_zeros(tensor.shape[0], max(sizes), *tensor.shape[2:])
    padded[:, : tensor.shape[1]] = tensor.detach()
    parts = [part[:, :size] for part, size in zip(stack_over_ranks(padded), sizes, strict=True)]
    parts[dist.get_rank()] = _ScaledGradient.apply(tensor, tensor.detach(), world_size())
    return torch.cat(parts, dim=1)


class AnyRank:
    """
    Reports to all ranks, at the same call, whether a condition holds on any of them.

    The flag is exchanged between hosts while the devices work, and arrives one call later; nothing waits for a device.
    """

    def __init__(self) -> None:
        # A group of its own: the default one may belong to the devices, and its queue to the gradients.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self._sent: tuple[dist.Work | None, torch.Tensor] = None, torch.tensor([False])

    def __call__(self, holds: bool) -> bool:
        """Whether it held on any rank at the last call; with one rank, `holds`. All ranks must call equally often."""
        if not isinstance(self._group, dist.ProcessGroup):
            return holds
        (work, before), flag = self._sent, torch.tensor([holds], dtype=torch.uint8)
        self._sent = dist.all_reduce(flag, dist.ReduceOp.MAX, self._group, async_op=True), flag
        if work is not None:
            work.wait()
        return bool(before)


def _is_sharded(tensor: torch.Tensor) -> "TypeGuard[DTensor]":
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # half a second that one process does not need

    return isinstance(tensor, DTensor)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a parameter that FSDP2 has sharded, without a copy; other tensors as they are."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded parameter, on every rank; other tensors as they are."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def copy_whole_(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Fill a tensor, or this rank's part of a sharded one, from the full `value`, the same on every rank."""
    value = value.to(tensor.device)
    if _is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    local_part(tensor).copy_(local_part(value))


def read_shards_(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """
    Fill full tensors on the CPU, by the model's names, from `pytorch_model_fsdp_0/` of a checkpoint, in a single
    process. RuntimeError if tensors or files are missing, or with several processes, which would wait for each other;
    errors of [`check_shards`].
    """
    if world_size() > 1:
        raise RuntimeError("Shards are read by one process: end the others first, `accelerator.end_training()`.")
    check_shards(folder)
    import torch.distributed.checkpoint as checkpoint  # a second that other callers do not need

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intent is to load in a single process")
        try:
            checkpoint.load({"model": weights}, checkpoint_id=folder)
        except checkpoint.CheckpointException as error:  # it prints as a list of tracebacks
            raise RuntimeError("; ".join(str(failure[0]) for failure in error.failures.values())) from error


def check_shards(folder: Path) -> None:
    """
    Refuse a folder of FSDP's shards that could run code, or that lacks files or parts of them.

    PyTorch reads `.metadata` as a pickle, and values that are not tensors too. Both are read here first, in ways that
    make known classes only: what they accept, PyTorch's own reading cannot turn into anything else. Any process may
    call this function alone. Damaged and refused files raise ValueError, OSError or an error of `pickle`.
    """
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

    shards = read_pickle(folder / ".metadata", _is_known_to_shards)
    if not isinstance(shards, Metadata) or not isinstance(shards.storage_data, dict):
        raise ValueError("its .metadata does not describe shards")
    for index, stored in shards.storage_data.items():
        file = folder / stored.relative_path
        if file.name != stored.relative_path or getattr(stored, "transform_descriptors", None):
            raise ValueError(f"its .metadata names {stored.relative_path!r}, which is not one of its shards")
        if not file.is_file() or file.stat().st_size < stored.offset + stored.length:
            raise ValueError(f"{file.name} is incomplete")
        if isinstance(shards.state_dict_metadata[index.fqn], BytesStorageMetadata):
            with file.open("rb") as opened:
                opened.seek(stored.offset)
                torch.load(io.BytesIO(opened.read(stored.length)), map_location="cpu", weights_only=True)


def _is_known_to_shards(module: str, name: str) -> bool:
    if module == "torch":
        return name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)
    return name in _CLASSES_OF_SHARDS.get(module, ())
