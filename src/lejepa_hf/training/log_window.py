"""LogWindow: losses, speed and waiting time of the steps between two logged rows."""

import time

import torch


class LogWindow:
    """Adds up losses, images and waiting time of this rank until a row is logged, without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.begin()

    def begin(self) -> None:
        """Begin a new window."""
        self._losses = torch.zeros(2, device=self._device)
        self._micro_batches, self._images, self._waited = 0, 0, 0.0
        self._start = time.perf_counter()

    def add_losses(self, prediction_loss: torch.Tensor, sigreg_loss: torch.Tensor, num_images: int) -> None:
        """Add a micro-batch."""
        self._losses += torch.stack([prediction_loss.detach(), sigreg_loss.detach()])
        self._micro_batches += 1
        self._images += num_images

    def add_waiting(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self._waited += seconds

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not spent on training, such as an evaluation, from the speed."""
        self._start += seconds

    @property
    def is_empty(self) -> bool:
        """Whether no micro-batch has been seen."""
        return self._micro_batches == 0

    def measure(self) -> dict[str, float]:
        """`prediction_loss`, `sigreg_loss`, `images_per_second` and `data_wait_fraction` of this rank."""
        elapsed = time.perf_counter() - self._start
        prediction_loss, sigreg_loss = (self._losses / self._micro_batches).tolist()
        return {
            "prediction_loss": prediction_loss,
            "sigreg_loss": sigreg_loss,
            "images_per_second": self._images / elapsed,
            "data_wait_fraction": self._waited / elapsed,
        }
