"""Gradient accumulation that gives the loss and gradient of one large batch."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.distributed import total_over_ranks

logger = logging.getLogger("lejepa_hf")


class ExactAccumulation:
    """
    Two passes over the micro-batches of an optimiser step.

    The statistic is not a mean over images but a function of sums over images. The first pass, without a graph, adds
    these sums up over micro-batches and ranks. In the second pass each micro-batch receives the total and
    backpropagates its own share. Dropout and drop path draw the same numbers in both passes, and buffers (running
    means) are updated only once. Batch norm is not exact: it normalises each micro-batch by its own statistics.
    """

    def __init__(self, model: LeJEPAForPreTraining) -> None:
        if model.sigreg.statistic != "epps_pulley":
            found = model.sigreg.statistic
            raise ValueError(
                f"`exact_accumulation` needs `statistic` 'epps_pulley', a function of sums over images, got {found!r}."
            )
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if norms:
            logger.warning(
                f"`exact_accumulation` is exact except for batch norm ({norms[0]}; {len(norms)} in all), which sees "
                "one micro-batch at a time; in the projector `projector_norm: layer` is exact."
            )
        self._model = model
        self._parts: list[dict[str, Any]] = []

    @torch.no_grad()
    def collect(self, batches: list[Any], forward: Callable[..., Any]) -> None:
        """The first pass over this rank's micro-batches of a step: calls `forward(batch, sums_only=True)` for each."""
        self._parts = []
        if not batches:
            return
        device = self._model.device
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        total = torch.zeros((), device=device)
        for batch in batches:
            random = [generator.get_rng_state() for generator in _generators(device)]
            self._parts.append({"random": random, "num_parts": len(batches)})
            total = total + forward(batch, sums_only=True).sums
        total = total_over_ranks(total)
        for buffer, before in zip(self._model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        for part in self._parts:
            part["batch_sums"] = total

    def next_part(self, device: torch.device) -> dict[str, Any]:
        """`batch_sums` and `num_parts` for the second pass over the next micro-batch, in its first random state."""
        part = self._parts.pop(0)
        for generator, state in zip(_generators(device), part.pop("random"), strict=True):
            generator.set_rng_state(state)
        return part


def _generators(device: torch.device) -> list[Any]:
    """Modules that hold the random states from which a forward pass may draw."""
    return [torch.random] if device.type == "cpu" else [torch.random, torch.get_device_module(device)]
