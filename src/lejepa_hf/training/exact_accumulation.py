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

    The mean of the losses of micro-batches is not the loss of the large batch, because the statistic is not a mean
    over images. It is a function of sums over images, however. The first pass, without a graph, adds these sums up
    over micro-batches and ranks. In the second pass each micro-batch receives the total and backpropagates its own
    share. Dropout and drop path draw the same numbers in both passes, and buffers (running means) are updated only
    once.

    Batch norm cannot be exact: each micro-batch is normalised by its own statistics.

    Args:
        model ([`LeJEPAForPreTraining`]): The model, not wrapped.

    Raises:
        ValueError: If the model's statistic is not a function of sums over images.
    """

    def __init__(self, model: LeJEPAForPreTraining) -> None:
        if model.sigreg.statistic != "epps_pulley":
            raise ValueError(
                f"`exact_accumulation` needs `statistic` 'epps_pulley', got {model.sigreg.statistic!r}, which is "
                "not a function of sums over images."
            )
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if norms:
            logger.warning(
                f"`exact_accumulation` is exact but for batch norm, which sees one micro-batch at a time ({norms[0]}"
                f"{f' and {len(norms) - 1} more' if norms[1:] else ''}); in the projector `projector_norm: layer` is "
                "exact."
            )
        self._model = model
        self._parts: list[dict[str, Any]] = []

    @torch.no_grad()
    def collect(self, batches: list[Any], forward: Callable[..., Any]) -> None:
        """
        The first pass.

        Args:
            batches (`list`): The micro-batches of one optimiser step on this rank.
            forward (`Callable`): `(batch, sums_only=True) -> LeJEPAOutput`, through the wrapped model.
        """
        self._parts = []
        if not batches:
            return
        device = self._model.device
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        total = torch.zeros((), device=device)
        for batch in batches:
            self._parts.append({"random": _random_state(device), "num_parts": len(batches)})
            total = total + forward(batch, sums_only=True).sums
        total = total_over_ranks(total)
        for buffer, before in zip(self._model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        for part in self._parts:
            part["batch_sums"] = total

    def next_part(self, device: torch.device) -> dict[str, Any]:
        """
        Arguments for the model's second pass over the next micro-batch; sets the random state of its first.

        Args:
            device (`torch.device`): Where the model is.

        Returns:
            `dict`: `batch_sums` and `num_parts`.
        """
        part = self._parts.pop(0)
        _set_random_state(device, part.pop("random"))
        return part


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
    return torch.get_rng_state(), on_device


def _set_random_state(device: torch.device, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1])
