"""LeJEPATrainer: the Hugging Face Trainer for a loss over views."""

import logging
import math
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import TrainOutput

from .checkpoints import last_finite_checkpoint
from .data.broken_images import BrokenImages
from .data.collator import MultiCropCollator
from .data.errors import StreamInterrupted
from .data.photometric import apply_photometric
from .data.positions import advance, read_positions, write_position
from .data.streaming import EndlessRows, count_rows
from .data.worker_memory import keep_large_blocks_apart
from .encoder_average import EncoderAverage
from .exact_accumulation import ExactAccumulation
from .modeling_lejepa import LeJEPAForPreTraining, LeJEPAOutput
from .monitors import DataHint, MetricsFile, ProgressBar
from .training_args import LeJEPATrainingArguments

logger = logging.getLogger("lejepa_hf")


class LeJEPATrainer(Trainer):
    """
    Trains [`LeJEPAForPreTraining`] on rows with an image.

    What differs from the base class: rows come from [`~data.streaming.EndlessRows`], split over ranks and workers and
    resumed at the exact batch; views get their photometric part on the device; the loss is never rescaled; the
    directions follow the global step; with `exact_accumulation` micro-batches make the loss of one large batch; a NaN
    or infinite loss stops the run; an unfit checkpoint is an error; callbacks with `save_state(folder)` and
    `load_state(folder)`, called on all ranks, keep their state in checkpoints.

    Args:
        model ([`LeJEPAForPreTraining`]): The model.
        args ([`LeJEPATrainingArguments`]): How to train.
        train_dataset: Map-style (length and integer index) or a `datasets.IterableDataset`, rows with an image.
        data_collator ([`MultiCropCollator`], *optional*): Cuts the views; the published settings if missing.
        kwargs: As in `Trainer`.

    Raises:
        ValueError: If the dataset is empty or smaller than one global batch, a stream has no `max_steps`, or
            `exact_accumulation` meets a statistic that is no function of sums.
    """

    # Both say the same to different versions: the loss is a mean over the micro-batch, divide it by their number.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: LeJEPAForPreTraining,
        args: LeJEPATrainingArguments,
        train_dataset=None,
        data_collator: MultiCropCollator | None = None,
        **kwargs,
    ):
        collator = data_collator or MultiCropCollator()
        self._num_images = count_rows(train_dataset) if train_dataset is not None else None
        self.global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        self._check_dataset(args, train_dataset)
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collator, **kwargs)
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        self.add_callback(DataHint)
        self.encoder_average = EncoderAverage(args.ema_decay) if args.ema_decay else None
        if self.encoder_average is not None:
            self.add_callback(self.encoder_average)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressBar)
        self._start: list[dict] | None = None
        self._lanes: list[dict] = []
        self._broken = BrokenImages(args.max_bad_fraction)
        self._exact = ExactAccumulation(model) if args.exact_accumulation else None
        self._begin_window()

    def _check_dataset(self, args: LeJEPATrainingArguments, dataset) -> None:
        if dataset is None:
            return
        if self._num_images is not None:
            if self._num_images < self.global_batch:
                raise ValueError(
                    f"The dataset has {self._num_images} images, fewer than one global batch of {self.global_batch}: "
                    "lower `per_device_train_batch_size`."
                )
            if args.max_steps <= 0:
                args.max_steps = math.ceil(args.num_train_epochs * self._num_images / self.global_batch)
        elif args.max_steps <= 0:
            raise ValueError("`max_steps` is needed: the stream does not say how many images it has.")

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """A plain loader, not prepared by Accelerate: [`EndlessRows`] has split the rows already."""
        args = self.args
        rows = EndlessRows(
            self.train_dataset,
            batch_size=args.per_device_train_batch_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            num_lanes=max(1, args.dataloader_num_workers),
            start=self._start and [rank["lanes"] for rank in self._start],
            image_column=getattr(self.data_collator, "image_column", "image"),
            shuffle_buffer_size=args.shuffle_buffer_size,
            max_retries=args.max_network_retries,
        )
        self._lanes = rows.lanes
        num_workers = rows.num_workers(args.dataloader_num_workers)
        if num_workers != args.dataloader_num_workers:
            logger.warning(
                f"{num_workers} data workers instead of `dataloader_num_workers` {args.dataloader_num_workers}: the "
                f"run began with {len(rows.lanes)}, and its order of images is kept."
            )
        return DataLoader(
            rows,
            batch_size=args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=args.dataloader_prefetch_factor if num_workers else None,
            drop_last=True,
            worker_init_fn=keep_large_blocks_apart,
            # The loader draws a seed when it starts; from the global generator a resumed run would draw once more
            # than the uninterrupted one, and dropout would differ from then on.
            generator=torch.Generator().manual_seed(args.seed),
        )

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """As the base class; keeps account of the data, and measures how long the step waited for it."""
        begin = time.perf_counter()
        try:
            batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        except StreamInterrupted:
            self._save_before_leaving()
            raise
        for batch in batches[0]:
            if "position" in batch:
                self._lanes = advance(self._lanes, batch.pop("position"))
            self._broken.count(self.args.per_device_train_batch_size, batch.pop("broken", []))
        self._waited += time.perf_counter() - begin
        if self._exact is not None:
            self._exact.collect(batches[0], self._forward)
        return batches

    def _save_before_leaving(self) -> None:
        """A checkpoint of the last step; with several processes the others wait in a step that will not come."""
        if self.args.world_size == 1 and self.state.global_step > 0:
            self._save_checkpoint(self.model, trial=None)
            logger.warning(f"Step {self.state.global_step} is saved.")

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # The random numbers stay on the host, where they become parameters: reading them back would stall the device.
        drawn = {name: value for name, value in inputs.items() if name.endswith("_photometric")}
        inputs = super()._prepare_inputs({name: value for name, value in inputs.items() if name not in drawn})
        return apply_photometric(inputs | drawn, self.data_collator.transform) if drawn else inputs

    # Loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The objective of one micro-batch, with the directions of the current optimiser step."""
        kwargs = {"step": self.state.global_step}
        if self._exact is not None and model.training:
            kwargs |= self._exact.next_part(self.args.device)
        outputs: LeJEPAOutput = model(**inputs, **kwargs)
        parts = torch.stack([outputs.prediction_loss.detach(), outputs.sigreg_loss.detach()])
        self._stop_if_not_finite(parts)
        if model.training:
            self._parts = self._parts.to(parts.device) + parts
            self._micro_batches += 1
            self._images += len(inputs["global_views"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _forward(self, batch: dict[str, torch.Tensor], **kwargs) -> LeJEPAOutput:
        """As the training step does it, without the step."""
        self.model_wrapped.train()
        with self.compute_loss_context_manager():
            return self.model_wrapped(**self._prepare_inputs(batch), step=self.state.global_step, **kwargs)

    def _stop_if_not_finite(self, parts: torch.Tensor) -> None:
        values = dict(zip(("prediction_loss", "sigreg_loss"), parts.tolist(), strict=True))
        broken = {name: value for name, value in values.items() if not math.isfinite(value)}
        if broken:
            good = last_finite_checkpoint(self.args.output_dir)
            way_out = f"continue from the last good checkpoint, `--resume {good}`" if good else "start anew"
            found = ", ".join(f"`{name}` is {value}" for name, value in broken.items())
            raise FloatingPointError(
                f"Step {self.state.global_step}: {found}. Stopped before the weights were touched: {way_out}, and "
                "lower the `learning_rate`, or use bf16 instead of fp16."
            )

    def get_decay_parameter_names(self, model) -> list[str]:
        """Matrices and filters decay; norms, biases and other vectors do not."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    # Logs

    def _begin_window(self) -> None:
        self._parts, self._micro_batches, self._images, self._waited = torch.zeros(2), 0, 0, 0.0
        self._window_start = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss parts, speed and waiting time, averaged over the steps since the last log and over ranks."""
        if "loss" in logs and self._micro_batches:
            elapsed = time.perf_counter() - self._window_start
            local = [*(self._parts / self._micro_batches).tolist(), self._images / elapsed, self._waited / elapsed]
            local.append(float(self._broken.num_broken))
            mean = self.accelerator.reduce(torch.tensor(local, device=self.args.device), "mean").tolist()
            logs["prediction_loss"], logs["sigreg_loss"] = mean[0], mean[1]
            logs["images_per_second"] = mean[2] * self.args.world_size
            logs["data_wait_fraction"] = mean[3]
            if mean[4]:
                logs["broken_images"] = round(mean[4] * self.args.world_size)
            self._begin_window()
        if self._num_images and self.state.epoch is not None:
            # The Trainer counts the endless loader as one epoch; users mean passes over the images.
            self.state.epoch = self.state.global_step * self.global_batch / self._num_images
        super().log(logs, start_time)

    # Resume

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs) -> TrainOutput:
        """
        Args:
            resume_from_checkpoint (`str` or `Path`, *optional*): A complete checkpoint folder.
            kwargs: As in `Trainer.train`.
        """
        self._start = None
        if resume_from_checkpoint is not None:
            resume_from_checkpoint = str(resume_from_checkpoint)
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "load_state"):
                    callback.load_state(Path(resume_from_checkpoint))
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:  # the base class would take one step more
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, float("nan"), {})
            self._start = read_positions(resume_from_checkpoint)
            if len(self._start) == self.args.world_size:
                own = self._start[self.args.process_index]
                self._broken.num_images, self._broken.num_broken = own["num_images"], own["num_broken"]
        self._begin_window()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        # What a rank, and not only the first one, needs to go on; the base class makes the folder.
        super()._save_rng_state(output_dir)
        counts = self._broken.num_images, self._broken.num_broken
        write_position(output_dir, self.args.process_index, self._lanes, *counts)
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "save_state"):
                callback.save_state(Path(output_dir))
        # The first rank's state comes next and makes the checkpoint a complete one: no rank may be missing in it.
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # The base class adds a pickle of the arguments, a Hub token among them. Nothing reads it; the recipe is kept.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _issue_warnings_after_load(self, load_result) -> None:
        # The base class logs and trains on from random weights.
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"The checkpoint does not fit the model; missing: {load_result.missing_keys}, unexpected: "
                f"{load_result.unexpected_keys}. Resume with the recipe it was made with."
            )
