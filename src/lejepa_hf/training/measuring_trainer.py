"""MeasuringTrainer: a Trainer that measures its run: logged rows, held-out evaluations, a stop at NaN."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from ..data.errors import BrokenImages
from ..modeling_lejepa import LeJEPAForPreTraining, LeJEPAOutput
from ..system.distributed import whole
from ..system.energy import EnergyMeter
from .callbacks.held_out import HeldOutImages
from .callbacks.monitor import Monitor, MonitorCost
from .checkpointing_trainer import CheckpointingTrainer
from .finite_guard import FiniteGuard


def _refused(name: str) -> Callable[..., NoReturn]:
    """A method of the base class that makes predictions, of which there are none in pretraining."""

    def method(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"`{name}` is not possible in pretraining: export the encoder, then `lejepa embed` or `evaluate_encoder`. "
            "`evaluate` measures held-out images."
        )

    return method


class LogWindow:
    """Losses, images and waiting time of this rank since the last logged row, without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(2, device=device)  # prediction loss and SIGReg, sums over micro-batches
        self.micro_batches, self.images = 0, 0
        self.waited = 0.0  # seconds, for data
        self.start = time.perf_counter()  # moved forward by time that is not training, such as an evaluation

    def add(self, prediction_loss: torch.Tensor, sigreg_loss: torch.Tensor, num_images: int) -> None:
        """Add a micro-batch."""
        self.losses += torch.stack([prediction_loss.detach(), sigreg_loss.detach()])
        self.micro_batches += 1
        self.images += num_images

    def measure(self) -> dict[str, float]:
        """`prediction_loss`, `sigreg_loss`, `images_per_second` and `data_wait_fraction` of this rank."""
        elapsed = time.perf_counter() - self.start
        prediction_loss, sigreg_loss = (self.losses / self.micro_batches).tolist()
        return {
            "prediction_loss": prediction_loss,
            "sigreg_loss": sigreg_loss,
            "images_per_second": self.images / elapsed,
            "data_wait_fraction": self.waited / elapsed,
        }


class MeasuringTrainer(CheckpointingTrainer):
    """
    Differences from the base class: logged rows have the parts of the loss, speed, waiting time and the figures of
    monitors; evaluations use a fixed sample of held-out images; a NaN or infinite loss or gradient stops the run
    before anything of it is saved. `global_batch` counts images in an optimiser step over all processes.
    """

    model: LeJEPAForPreTraining
    _broken: BrokenImages

    def __init__(self, *, num_images: int | None, global_batch: int, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._num_images, self.global_batch = num_images, global_batch
        self._guard = FiniteGuard(str(self.args.output_dir))
        self._held_out: HeldOutImages | None = None
        self._begin_measuring()

    def _begin_measuring(self) -> None:
        self._window, self._cost = LogWindow(self.args.device), MonitorCost()
        self.energy = EnergyMeter(self.args.device, self.args.local_process_index == 0)

    def evaluate(
        self, eval_dataset: object = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Evaluate the model on a fixed sample of held-out images, in evaluation mode, with batch norm as described in
        [`~training.callbacks.held_out.HeldOutImages`]; training is not touched.

        Args:
            eval_dataset (*optional*): Dataset to use instead of the Trainer's.
            ignore_keys: Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Prefix of the names.

        Returns:
            `dict[str, float]`: `eval_loss`, `eval_prediction_loss`, `eval_sigreg_loss`, `eval_effective_rank`,
            `eval_embedding_spread`, `eval_runtime` in seconds, and with labels `eval_knn_top1` and, once the online
            probe has learned, `eval_online_probe_top1`. `eval_shared_images` on the first process, if some of the
            images are training images too.

        Raises:
            FloatingPointError: If embeddings are NaN or infinite; the message says of how many images.
        """
        model, was_training = self.model_wrapped, self.model_wrapped.training
        model.eval()
        try:
            # Not compiled: batches of other sizes would each need a new graph.
            with self._cost, torch.no_grad(), torch.compiler.set_stance("force_eager"):
                images = self._held_out_images(eval_dataset)
                # Always the same directions: evaluations of a run are compared with each other.
                found = images.measure(self.model, partial(self._forward, step=0))
        except FloatingPointError as error:
            raise self._guard.error(self.state.global_step, str(error)) from error
        finally:
            model.train(was_training)
        self._window.start += self._cost.last  # speed is that of training
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(self._cost.last, 4)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    predict, prediction_step = _refused("predict"), _refused("prediction_step")
    evaluation_loop = _refused("evaluation_loop")  # it would join batches along the axis of the views

    def _forward(self, inputs: dict[str, torch.Tensor], step: int, **kwargs: object) -> LeJEPAOutput:
        """A forward pass outside of `training_step`, with the directions of a step."""
        prepared = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            return self.model_wrapped(**prepared, step=step, **kwargs)

    def _held_out_images(self, dataset: object = None) -> HeldOutImages:
        """Held-out images, which are cut only once for the Trainer's own dataset."""
        if dataset is not None:
            return self._open_held_out(dataset)
        if self._held_out is None:
            self._held_out = self._open_held_out(self.eval_dataset)
        return self._held_out

    def _open_held_out(self, dataset: object) -> HeldOutImages:
        raise NotImplementedError

    def _monitors(self) -> list[Monitor]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Monitor)]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a row; adds means over the steps since the last row and over ranks."""
        self._guard.check(wait=True)
        if "loss" in logs and self._window.micro_batches:
            logs |= self._measure()
            self._window = LogWindow(self.args.device)
        if "loss" in logs or "train_runtime" in logs:
            logs |= self._cost.measure()
        if self._num_images and self.state.epoch is not None:
            # The Trainer counts the endless loader as one epoch; users mean passes over the images.
            self.state.epoch = self.state.global_step * self.global_batch / self._num_images
        super().log(logs, start_time)

    def _measure(self) -> dict[str, float]:
        """Means over ranks; speed and counts are sums over ranks."""
        local = self._window.measure()
        local |= {"broken_images": float(self._broken.num_broken), "energy_kwh": self.energy.joules() / 3.6e6}
        with self._cost:
            local |= {name: value for monitor in self._monitors() for name, value in monitor.measure().items()}
        mean = self.accelerator.reduce(torch.tensor(list(local.values()), device=self.args.device), "mean")
        row = dict(zip(local, mean.tolist(), strict=True))
        for name in ("images_per_second", "broken_images", "energy_kwh"):
            row[name] *= self.args.world_size
        row["broken_images"] = round(row["broken_images"])
        absent = {"broken_images": not row["broken_images"], "energy_kwh": math.isnan(row["energy_kwh"])}
        row = {name: value for name, value in row.items() if not absent.get(name, False)}
        if (null_mean := self.model.sigreg.null_mean) is not None:
            row["sigreg_over_null"] = row["sigreg_loss"] / null_mean
        return row

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """Like the base class, which measures it; checks it before the optimizer uses the gradient."""
        norm = whole(super()._get_grad_norm(model, grad_norm))  # under FSDP a rank holds its part
        if self.accelerator.scaler is None:  # with fp16 the scaler handles overflow
            self._guard.watch(self.state.global_step, grad_norm=norm)
            self._guard.check()
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Like [`CheckpointingTrainer`], after a check that no loss or gradient was NaN or infinite."""
        self._guard.check(wait=True)
        super().save_model(output_dir, _internal_call)
