"""OnlineProbe: a linear classifier on detached embeddings, trained beside the encoder."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ...system.distributed import is_first_rank, total_over_ranks
from .monitor import HeldOutMonitor, MonitoredRun
from .stateful import StatefulCallback

logger = logging.getLogger("lejepa_hf")

_FILE = "online_probe.safetensors"


class OnlineProbe(HeldOutMonitor, StatefulCallback):
    """
    LayerNorm and one linear layer with its own AdamW, one step on each batch of views.

    It sees detached embeddings, so that labels cannot reach the encoder, and starts at zero, without random numbers.
    Gradients are those of the batch over all ranks, so that its weights are the same on every rank. `measure` is its
    accuracy on views that it is about to learn from, `measure_held_out` that on held-out images.

    Class numbers outside of [0, `num_classes`), such as -1, are left out of training; a held-out image with a class
    that training does not have counts as wrong. The learning rate is constant.

    Source: arXiv 2511.08544 and the minimal example of its code: every view, learning rate 1e-3, weight decay 1e-7;
    held-out accuracy on images without augmentation.
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, learning_rate: float = 1e-3, device: torch.device | str = "cpu"
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
        # Drawing the linear layer's weights first would move the global RNG.
        linear = nn.utils.skip_init(nn.Linear, embedding_dim, num_classes)
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
        self.probe = nn.Sequential(nn.LayerNorm(embedding_dim), linear)
        self.probe.to(device)
        self.num_classes, self.device = num_classes, torch.device(device)
        self.optimizer = torch.optim.AdamW(self.probe.parameters(), lr=learning_rate, weight_decay=1e-7, fused=True)
        self._window = torch.zeros(3, device=device)  # loss, hits, views, over ranks and batches since the last log

    @classmethod
    def for_run(cls, run: MonitoredRun) -> "OnlineProbe | None":
        """The probe of a run, None without at least two classes."""
        if run.num_classes is None or run.num_classes < 2:
            return None
        return cls(run.model.encoder.embedding_dim, run.num_classes, device=run.device)

    def observe(self, embeddings: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Train one step on embeddings `(num_views, batch_size, dim)` and class numbers `(batch_size,)`."""
        if labels is None:
            return
        rows = embeddings.detach().float().flatten(0, 1)
        targets = labels.to(self.device, non_blocking=True).repeat(len(embeddings))
        targets = torch.where((targets < 0) | (targets >= self.num_classes), -1, targets)
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            logits = self.probe(rows)
            loss = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        gradients = torch.autograd.grad(loss, list(self.probe.parameters()))
        hits, views = (logits.argmax(1) == targets).sum(), (targets >= 0).sum()
        figures = torch.stack([loss.detach(), hits.float(), views.float()])
        total = total_over_ranks(torch.cat([*(gradient.flatten() for gradient in gradients), figures]))
        self._window = self._window + total[-3:]
        parts = (total[:-3] / total[-1].clamp_min(1)).split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(self.probe.parameters(), parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def measure(self) -> dict[str, float]:
        """Cross-entropy and accuracy in [0, 1] since the last call, both before each step; nothing without labels."""
        loss, hits, views = self._window.tolist()
        self._window = torch.zeros_like(self._window)
        return {"online_probe_loss": loss / views, "online_probe_top1": hits / views} if views else {}

    def measure_held_out(self, embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`online_probe_top1`: whether the probe classifies each image correctly; nothing before it has learned."""
        if not any(parameter.any() for parameter in self.probe[1].parameters()):
            return {}  # at zero it names the first class for every image, which would look like a result
        return {"online_probe_top1": self.probe(embeddings).argmax(1) == labels}

    def save_state(self, folder: Path) -> None:
        """Write weights, moments and the current window into a checkpoint, on the first rank."""
        if not is_first_rank():
            return
        tensors = {f"probe.{name}": value for name, value in self.probe.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        tensors["window"] = self._window
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, Path(folder) / _FILE)

    def load_state(self, folder: Path) -> None:
        """Continue from a checkpoint; if it has no fitting state, warn and start from zero."""
        path = Path(folder) / _FILE
        tensors = load_file(path) if path.is_file() else {}
        weights = {name.removeprefix("probe."): value for name, value in tensors.items() if name.startswith("probe.")}
        shapes, wanted = ({name: of[name].shape for name in of} for of in (weights, self.probe.state_dict()))
        if shapes != wanted:
            logger.warning(f"{Path(folder).name} has no state of this online probe: it starts from zero.")
            return
        self.probe.load_state_dict(weights)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self._window = tensors["window"].to(self.device)
