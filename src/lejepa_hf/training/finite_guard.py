"""Stops a run whose numbers became NaN or infinite, without waiting for the device in every step."""

import math
from collections import deque
from pathlib import Path

import torch

from .checkpoints import last_finite_checkpoint


class FiniteGuard:
    """
    Copies numbers of each step to the host while the device works on, and checks them when they arrive: immediately on
    the CPU, about a step later on an accelerator. Before anything is saved or logged it waits for all of them. Errors
    name the last good checkpoint of the run folder.
    """

    def __init__(self, run: str | Path) -> None:
        self._run = run
        self._pending: deque[tuple[int, tuple[str, ...], torch.Tensor, torch.Event | None]] = deque()

    def watch(self, step: int, **values: torch.Tensor) -> None:
        """Watch scalars on one device, by name, of an optimiser step."""
        together = torch.stack([value.detach().float() for value in values.values()])
        arrived = None
        if together.device.type != "cpu":
            together = together.to("cpu", non_blocking=True)
            arrived = torch.get_device_module(values[next(iter(values))].device).Event()
            arrived.record()
        self._pending.append((step, tuple(values), together, arrived))

    def check(self, wait: bool = False) -> None:
        """Raise FloatingPointError if a number that arrived is NaN or infinite; `wait` for those still on the way."""
        while self._pending:
            step, names, together, arrived = self._pending[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    return
                arrived.synchronize()
            self._pending.popleft()
            broken = {name: x for name, x in zip(names, together.tolist(), strict=True) if not math.isfinite(x)}
            if broken:
                self._pending.clear()
                raise self.error(step, ", ".join(f"`{name}` is {value}" for name, value in broken.items()))

    def error(self, step: int, found: str) -> FloatingPointError:
        """The error that stops the run after a step, because of what was found there."""
        good = last_finite_checkpoint(self._run)
        way_out = f"continue from the last good checkpoint, `--resume {good}`" if good else "start again"
        return FloatingPointError(
            f"Step {step}: {found}. The run stopped without saving this step: {way_out}, and lower the "
            "`learning_rate`, or use bf16 instead of fp16."
        )
