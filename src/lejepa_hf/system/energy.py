"""Energy used by training, where the machine has a counter."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")  # Linux's RAPL; by default only root may read it

_SOURCES = {
    "cuda": "the GPUs, by their counters (NVML); CPUs, memory and cooling are not in it",
    "cpu": "the CPUs and what else ran on them, by their counters (RAPL); other parts are not in it",
}


class _Counter:
    def __init__(self, read: Callable[[], float], wraps_at: float = math.inf) -> None:
        self.read, self.wraps_at, self.last = read, wraps_at, read()  # joules

    def joules(self) -> float:
        now = self.read()
        used = now - self.last if now >= self.last else now + self.wraps_at - self.last
        self.last = now
        return used


class EnergyMeter:
    """
    Reads the counter of the GPU that a process trains on (NVML, if the package nvidia-ml-py is installed), or of the
    CPU packages of its machine (RAPL, in the folder `powercap`, if it is readable). Processes share the packages: the
    first one of a machine counts them.

    `source` describes in words what is measured, None where there is no counter.
    """

    def __init__(self, device: torch.device, is_first_here: bool = True, powercap: Path = _POWERCAP) -> None:
        self._counters: list[_Counter] = []
        if device.type == "cuda":
            self._counters = _of_gpu(device)
        elif device.type == "cpu":
            self._counters = _of_packages(powercap) if is_first_here else [_Counter(lambda: 0.0)]
        self.source = _SOURCES[device.type] if self._counters else None

    def joules(self) -> float:
        """Joules since the last call, or since the meter was made; NaN without a counter."""
        return sum(counter.joules() for counter in self._counters) if self._counters else math.nan


def _of_packages(powercap: Path) -> list[_Counter]:
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]  # whole packages
    try:
        return [
            _Counter(partial(_micro, zone / "energy_uj"), _micro(zone / "max_energy_range_uj"))
            for zone in zones
            if (zone / "name").read_text(encoding="utf-8").startswith("package")
        ]
    except (OSError, ValueError):
        return []


def _micro(path: Path) -> float:
    """Joules from a file of microjoules."""
    return int(path.read_text(encoding="utf-8")) / 1e6


def _of_gpu(device: torch.device) -> list[_Counter]:
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return [_Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]
    except pynvml.NVMLError:  # no driver, or a GPU without the counter
        return []
