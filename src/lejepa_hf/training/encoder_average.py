"""An exponential moving average of the encoder's weights."""

import logging
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerState

from ..modeling_lejepa import LeJEPAForPreTraining, LeJEPAModel
from ..system.damaged_files import damage_of
from ..system.distributed import copy_whole_, is_first_rank, local_part, whole
from .callbacks.stateful import StatefulCallback

logger = logging.getLogger("lejepa_hf")

_FILE = "encoder_average.safetensors"


class EncoderAverage(StatefulCallback):
    """
    Averages the encoder's parameters after every optimiser step, each rank its own part of parameters that FSDP2 has
    sharded. The decay grows with the steps, `min(decay, (1 + step) / (10 + step))`, so that the first weights are soon
    forgotten. Buffers (running means) are not averaged: an averaged encoder has the buffers of the trained one.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Begin with the weights as they are."""
        model = kwargs["model"]
        assert isinstance(model, LeJEPAForPreTraining)
        # FSDP's activation checkpointing puts its wrapper into the names; the saved average is read without it.
        self._average = {
            name.replace("_checkpoint_wrapped_module.", ""): parameter.detach().clone()
            for name, parameter in model.encoder.named_parameters()
        }

    def on_step_end(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Take in the weights of the step."""
        model = kwargs["model"]
        assert isinstance(model, LeJEPAForPreTraining)
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        averages = [local_part(average) for average in self._average.values()]
        parameters = [local_part(parameter) for parameter in model.encoder.parameters()]
        get_ema_multi_avg_fn(decay)(averages, parameters, None)

    def save_state(self, folder: Path) -> None:
        """Write the average as complete tensors; every rank calls this, the first one writes."""
        tensors = {}
        for name, average in self._average.items():
            value = whole(average)  # of all ranks, and dropped by all but the first: one tensor at a time
            if is_first_rank():
                tensors[name] = value.contiguous().cpu()
        if tensors:
            save_file(tensors, Path(folder) / _FILE, metadata={"ema_decay": str(self.decay)})

    def load_state(self, folder: Path) -> None:
        """Read what [`save_state`] wrote, after training has begun or without any training."""
        path = Path(folder) / _FILE
        if not path.is_file():
            logger.warning(
                f"`ema_decay`: {Path(folder).name} has no averaged encoder, so the average starts from its weights."
            )
            return
        saved = load_file(path)
        self._average = self._average or saved
        for name, value in saved.items():
            copy_whole_(self._average[name], value)


@torch.no_grad()
def load_average(encoder: LeJEPAModel, folder: str | Path) -> float:
    """Replace the weights of an encoder by their average in a checkpoint or `pretraining/`; returns its decay."""
    path = Path(folder) / _FILE
    if not path.is_file():
        raise ValueError(
            f"{str(folder)!r} has no averaged encoder, {_FILE}: a run keeps one if its `ema_decay` is above 0."
        )
    if (damage := damage_of(path)) is not None:
        raise ValueError(
            f"The averaged encoder in {str(folder)!r} cannot be read ({damage}): choose another checkpoint."
        )
    encoder.load_state_dict({**encoder.state_dict(), **load_file(path)})
    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["ema_decay"])
