"""Stops a run whose numbers became NaN or infinite, without waiting for the device in every step."""

import math
from collections import deque

import torch


class NotFinite(FloatingPointError):
    """
    A watched number was NaN or infinite.

    Args:
        step (`int`): Optimiser step it belongs to, from 0.
        values (`dict[str, float]`): The numbers that were not finite, by name.
    """

    def __init__(self, step: int, values: dict[str, float]):
        self.step, self.values = step, values
        super().__init__(f"step {step}: {values}")


class FiniteGuard:
    """
    Numbers of each step, copied to the host while the device goes on, and looked at when they have arrived: on the CPU
    at once, on an accelerator a step or so later. Before anything is saved or logged, all of them are waited for.
    """

    def __init__(self):
        self._pending: deque[tuple[int, tuple[str, ...], torch.Tensor, torch.Event | None]] = deque()

    def watch(self, step: int, **values: torch.Tensor) -> None:
        """
        Args:
            step (`int`): Optimiser step they belong to.
            values (`torch.Tensor`): Scalars, on one device.
        """
        together = torch.stack([value.detach().float() for value in values.values()])
        arrived = None
        if together.device.type != "cpu":
            together = together.to("cpu", non_blocking=True)
            arrived = torch.get_device_module(values[next(iter(values))].device).Event()
            arrived.record()
        self._pending.append((step, tuple(values), together, arrived))

    def check(self, wait: bool = False) -> None:
        """
        Args:
            wait (`bool`, *optional*, defaults to `False`): Also for numbers that are still on their way.

        Raises:
            NotFinite: If one that arrived is NaN or infinite.
        """
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
                raise NotFinite(step, broken)
