"""The device, cores and memory that this process may use."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_WORTH_A_THREAD = 2**24  # multiplications: with fewer, threads mostly wait for each other
_ROOT = Path("/")


def default_device() -> torch.device:
    """The accelerator of this process if there is one, otherwise the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def computes_in_bf16(device: torch.device, root: Path = _ROOT) -> bool:
    """
    Whether bfloat16 is faster than fp32 on this device: on NVIDIA GPUs from Ampere on, and on x86 CPUs with
    instructions for it, which Linux names in `proc/cpuinfo` below `root`. Elsewhere it is emulated, or not measured.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = root / "proc/cpuinfo"
    if device.type != "cpu" or not cpu.is_file():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu.read_text(encoding="utf-8").split())


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Compute with one CPU thread where the largest operation has too few multiplications to be worth several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if multiplications < _WORTH_A_THREAD else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores_of_this_process(root: Path = _ROOT) -> int:
    """
    Number of CPU cores that this process may use, at least 1, within its affinity and the quota of its control group.
    The processes that a launcher started on this machine share them equally. `root` has `proc/` and `sys/`.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [_read_quota(folder) for folder in _control_groups("cpu", root)]
    cores = min([cores, *(int(quota) for quota in quotas if quota is not None)])
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def memory_of(device: torch.device, root: Path = _ROOT) -> int | None:
    """
    Bytes of memory that this process may use on a device, None where it is not known. For the CPU it is the memory of
    the machine, within the limit of the control group. `root` has `proc/` and `sys/`.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or sys.platform == "win32":
        return None
    groups = _control_groups("memory", root)
    limits = [_read_number(group, "memory.max", "memory.limit_in_bytes") for group in groups]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in limits if limit is not None)])


def _control_groups(controller: str, root: Path) -> list[Path]:
    """The folders of the control groups of this process, and of the groups above them, whose limits hold as well."""
    own = root / "proc/self/cgroup"
    folders = []
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # A container sees its own group as the root, also where version 1 names the group by its path on the host.
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        inside = Path(group.lstrip("/"))
        folders += [mount / part for part in (inside, *inside.parents)]
    return folders


def _read_quota(folder: Path) -> float | None:
    """Cores of a CPU quota, None without one; version 2 writes quota and period into one file, version 1 into two."""
    both = folder / "cpu.max"
    if both.is_file():
        quota, period = both.read_text(encoding="utf-8").split()
        return int(quota) / int(period) if quota != "max" else None
    quota_us, period_us = _read_number(folder, "cpu.cfs_quota_us"), _read_number(folder, "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _read_number(folder: Path, *names: str) -> int | None:
    """The number in the first of these files that exists, None if it says `max`."""
    for name in names:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8").strip()
            return None if text == "max" else int(text)
    return None
