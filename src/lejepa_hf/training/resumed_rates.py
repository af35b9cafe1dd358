"""ResumedRates: lets a changed learning rate or weight decay take effect when a run is resumed."""

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState


class ResumedRates(TrainerCallback):
    """Puts the rates of the arguments back, which loading optimizer and schedule has replaced by the old ones."""

    def __init__(self) -> None:
        self._asked: list[tuple[float, float]] = []  # learning rate and weight decay of each group

    def remember(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the rates before a checkpoint is loaded."""
        self._asked = [
            (group.get("initial_lr", group["lr"]), group.get("weight_decay", 0.0)) for group in optimizer.param_groups
        ]

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Everything is loaded, and no step has been made yet."""
        optimizer, lr_scheduler = kwargs.get("optimizer"), kwargs.get("lr_scheduler")
        if state.global_step == 0 or optimizer is None or not isinstance(lr_scheduler, LambdaLR):
            return
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group, (_, weight_decay) in zip(optimizer.param_groups, self._asked, strict=True):
            group["weight_decay"] = weight_decay
        rates: list[float | torch.Tensor] = [rate for rate, _ in self._asked]
        if lr_scheduler.base_lrs == rates:
            return
        lr_scheduler.base_lrs = rates
        for group, rate, factor in zip(optimizer.param_groups, rates, lr_scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * factor(lr_scheduler.last_epoch)
        lr_scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # what is logged
