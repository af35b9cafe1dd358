"""LeJEPATrainer: the Hugging Face Trainer for a loss over views."""

import dataclasses
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from torch.utils.data import DataLoader
from transformers import TrainerState
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import TrainOutput

from .data.batch import BROKEN, GLOBAL_VIEWS, PHOTOMETRIC_KEYS, POSITION, PROBE_LABELS
from .data.broken_images import BrokenImages
from .data.collator import MultiCropCollator
from .data.dataset_kinds import count_classes, count_rows
from .data.errors import StreamInterrupted
from .data.photometric import apply_photometric
from .data.reader_state import RankState, ReaderPosition, advance, read_positions, write_position
from .data.streaming import EndlessRows, prepare_worker
from .model.architecture import is_convolutional
from .model.repeated_layers import find_blocks
from .modeling_lejepa import LeJEPAForPreTraining, LeJEPAOutput
from .system.energy import EnergyMeter
from .training.callbacks.held_out import HeldOutImages
from .training.callbacks.monitors import (
    DataHint,
    EmbeddingMonitor,
    HealthWatch,
    MetricsFile,
    MonitorCost,
    OnlineProbe,
    ProgressBar,
)
from .training.checkpointing_trainer import CheckpointingTrainer
from .training.checkpoints import last_finite_checkpoint
from .training.compilation import compile_backbone, without_compiled_graphs
from .training.encoder_average import EncoderAverage
from .training.exact_accumulation import ExactAccumulation
from .training.finite_guard import FiniteGuard, NotFinite
from .training.launch_checks import check_backend, check_launch, check_shared_folder, describe_launch
from .training.preemption import Preemption
from .training.resume_settings import compare_settings, flat_config, write_settings
from .training_args import LeJEPATrainingArguments

logger = logging.getLogger("lejepa_hf")


class LeJEPATrainer(CheckpointingTrainer):
    """
    Trains [`LeJEPAForPreTraining`] on rows with an image.

    What differs from the base class: rows come from [`~data.streaming.EndlessRows`], split over ranks and workers and
    resumed at the exact batch; views get their photometric part on the device; the loss is never rescaled; the
    directions follow the global step; with `exact_accumulation` micro-batches make the loss of one large batch; a NaN
    or infinite loss or gradient stops the run; SIGTERM ends it with a checkpoint (`preempted` says so); a launch that
    would run something else than asked is refused; checkpoints are those of [`CheckpointingTrainer`]. The Trainer
    itself pushes nothing to the Hub: [`~hub.checkpoint_push.CheckpointPush`] among its `callbacks` does.

    Args:
        model ([`LeJEPAForPreTraining`]): The model.
        args ([`LeJEPATrainingArguments`]): How to train.
        train_dataset: Map-style (length and integer index) or a `datasets.IterableDataset`, rows with an image.
        data_collator ([`MultiCropCollator`], *optional*): Cuts the views; the published settings if missing. With its
            `label_column` monitors may use labels; the model never sees them.
        kwargs: As in `Trainer`. `eval_dataset` is one dataset of held-out images with the columns of the training
            set; k-NN on it needs `processing_class`, an image processor.

    Raises:
        ValueError: If the dataset is empty or smaller than one global batch, a stream has no `max_steps`,
            `exact_accumulation` meets a statistic that is no function of sums, the launcher started something else
            than it was told, the processes do not share `output_dir`, or the backbone cannot recompute activations.
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
        check_launch(args)
        collator = data_collator or MultiCropCollator()
        self._num_images = count_rows(train_dataset) if train_dataset is not None else None
        self.global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        self._check_dataset(args, train_dataset)
        self._check_recomputing(args, model)
        # What FSDP shards: the backbone's blocks, where the classes' own lists name parts of blocks or nothing at all.
        model._no_split_modules = {type(block).__name__ for block in find_blocks(model.encoder.backbone)}
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collator, **kwargs)
        check_backend(args, self.accelerator)
        check_shared_folder(args.output_dir, args.process_index, args.world_size)
        if is_convolutional(model.encoder.backbone) and args.device.type != "mps" and not self.is_fsdp_enabled:
            model.encoder.use_channels_last()
        if self.is_fsdp_enabled:  # it warns in every step that outputs must not be changed in place; nobody does
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        plugin = self.accelerator.state.dynamo_plugin
        if plugin.backend != DynamoBackend.NO:
            # Accelerate would compile all of the model, with the objective and its directions, which change each step.
            mode = args.torch_compile_mode
            compile_backbone(model.encoder.backbone, plugin.backend.value.lower(), mode, self.is_fsdp_enabled)
            plugin.backend = DynamoBackend.NO
        self._guard = FiniteGuard()
        self._preemption = Preemption()
        self.add_callback(self._preemption)
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        self.add_callback(DataHint)
        self.encoder_average = EncoderAverage(args.ema_decay) if args.ema_decay else None
        if self.encoder_average is not None:
            self.add_callback(self.encoder_average)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressBar)
        self._start: list[RankState] | None = None
        self._readers: list[ReaderPosition] = []
        self._broken = BrokenImages(args.max_bad_fraction)
        self._exact = ExactAccumulation(model) if args.exact_accumulation else None
        self._add_monitors(model)
        self._begin_window()

    def _add_monitors(self, model: LeJEPAForPreTraining) -> None:
        args, collator = self.args, self.data_collator
        self._cost, self._held_out, self._labels = MonitorCost(), None, []
        self.energy = EnergyMeter(args.device, args.local_process_index == 0)
        self._null_mean = model.sigreg.null_mean
        if "embeddings" in args.monitors:
            self.add_callback(EmbeddingMonitor(collator.transform.num_global_views))
        label_column = getattr(collator, "label_column", None)
        num_classes = count_classes(self.train_dataset, label_column) if label_column is not None else None
        if "probe" in args.monitors and num_classes is not None:
            self.add_callback(OnlineProbe(model.encoder.embedding_dim, num_classes, device=args.device))
        if "health" in args.monitors:
            parts = args.gradient_accumulation_steps if args.exact_accumulation else 1
            num_images = args.per_device_train_batch_size * args.world_size * parts
            point = model.sigreg.collapsed_mean
            self.add_callback(HealthWatch(point and point * num_images))

    def _monitors(self) -> list:
        return [callback for callback in self.callback_handler.callbacks if hasattr(callback, "observe")]

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

    @staticmethod
    def _check_recomputing(args: LeJEPATrainingArguments, model: LeJEPAForPreTraining) -> None:
        backbone = model.encoder.backbone
        if args.recomputes_activations and not any(hasattr(m, "gradient_checkpointing") for m in backbone.modules()):
            raise ValueError(
                f"`activation_checkpointing` is not possible with a {backbone.config.model_type} backbone: leave it "
                "out, and lower `per_device_train_batch_size` if memory is short."
            )

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
            num_readers=max(1, args.dataloader_num_workers),
            start=[rank.readers for rank in self._start] if self._start else None,
            image_column=getattr(self.data_collator, "image_column", "image"),
            shuffle_buffer_size=args.shuffle_buffer_size,
            max_retries=args.max_network_retries,
        )
        self._readers = rows.readers
        num_workers = rows.num_workers(args.dataloader_num_workers)
        if num_workers != args.dataloader_num_workers:
            logger.warning(
                f"{num_workers} data workers instead of `dataloader_num_workers` {args.dataloader_num_workers}: the "
                f"run began with {len(rows.readers)}, and its order of images is kept."
            )
        return DataLoader(
            rows,
            batch_size=args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=args.dataloader_prefetch_factor if num_workers else None,
            drop_last=True,
            worker_init_fn=prepare_worker,
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
            if POSITION in batch:
                self._readers = advance(self._readers, batch.pop(POSITION))
            self._broken.count(self.args.per_device_train_batch_size, batch.pop(BROKEN, []))
        self._labels = [batch.pop(PROBE_LABELS, None) for batch in batches[0]]
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
        # Views come from pinned memory; the base class would wait for their copies.
        drawn = {name: value for name, value in inputs.items() if name in PHOTOMETRIC_KEYS}
        views = {name: value for name, value in inputs.items() if name not in drawn}
        views = {name: value.to(self.args.device, non_blocking=True) for name, value in views.items()}
        return apply_photometric(views | drawn, self.data_collator.transform) if drawn else views

    # Loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The objective of one micro-batch, with the directions of the current optimiser step."""
        kwargs = {"step": self.state.global_step}
        if self._exact is not None and model.training:
            kwargs |= self._exact.next_part(self.args.device)
        outputs: LeJEPAOutput = model(**inputs, **kwargs)
        parts = {"prediction_loss": outputs.prediction_loss, "sigreg_loss": outputs.sigreg_loss}
        self._guard.watch(self.state.global_step, **parts)
        self._check_guard()
        if model.training:
            self._parts += torch.stack([part.detach() for part in parts.values()])
            self._micro_batches += 1
            self._images += len(inputs[GLOBAL_VIEWS])
            with self._cost:
                labels = self._labels.pop(0) if self._labels else None
                for monitor in self._monitors():
                    monitor.observe(outputs.embeddings.detach(), labels)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _forward(self, batch: dict[str, torch.Tensor], **kwargs) -> LeJEPAOutput:
        """As the training step does it, without the step."""
        self.model_wrapped.train()
        with self.compute_loss_context_manager():
            return self.model_wrapped(**self._prepare_inputs(batch), step=self.state.global_step, **kwargs)

    def _get_grad_norm(self, model, grad_norm=None):
        """As the base class, which measures it in every step; before the optimiser uses the gradient it is judged."""
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # under FSDP a rank holds its part
        if self.accelerator.scaler is None and torch.is_tensor(norm):  # with fp16 overflow is the scaler's business
            self._guard.watch(self.state.global_step, grad_norm=norm)
            self._check_guard()
        return norm

    def _check_guard(self, wait: bool = False) -> None:
        try:
            self._guard.check(wait)
        except NotFinite as error:
            good = last_finite_checkpoint(self.args.output_dir)
            way_out = f"continue from the last good checkpoint, `--resume {good}`" if good else "start anew"
            found = ", ".join(f"`{name}` is {value}" for name, value in error.values.items())
            raise FloatingPointError(
                f"Step {error.step}: {found}. Stopped, and nothing of it was saved: {way_out}, and lower the "
                "`learning_rate`, or use bf16 instead of fp16."
            ) from error

    def get_decay_parameter_names(self, model) -> list[str]:
        """Matrices and filters decay; norms, biases and other vectors do not."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    # Evaluation while training

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Judge the model on a fixed sample of held-out images, in evaluation mode, batch norm as [`HeldOutImages`] has
        it; training is not touched.

        Args:
            eval_dataset (*optional*): Another dataset than the Trainer's.
            ignore_keys: Without meaning here.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Of the names.

        Returns:
            `dict[str, float]`: `eval_loss`, `eval_prediction_loss`, `eval_sigreg_loss`, `eval_effective_rank`,
            `eval_embedding_spread`, with labels `eval_knn_top1`, and `eval_runtime` in seconds. See
            [`~training.callbacks.held_out.HeldOutImages`].

        Raises:
            ValueError: If there is no such dataset, several, or too few images.
        """
        model, was_training = self.model_wrapped, self.model_wrapped.training
        model.eval()
        try:
            with self._cost, torch.no_grad(), without_compiled_graphs():
                images = self._held_out_images(eval_dataset)
                found = images.measure(model, self._forward_held_out, self._prepare_inputs)
        finally:
            model.train(was_training)
        self._window_start += self._cost.last  # speed is that of training
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(self._cost.last, 4)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _forward_held_out(self, inputs: dict[str, torch.Tensor]) -> LeJEPAOutput:
        # Always the same directions: evaluations of a run are compared with each other.
        with self.compute_loss_context_manager():
            return self.model_wrapped(**inputs, step=0)

    def _held_out_images(self, dataset=None) -> HeldOutImages:
        if dataset is None and self._held_out is not None:
            return self._held_out
        chosen = self.eval_dataset if dataset is None else dataset
        if chosen is None or isinstance(chosen, dict):
            raise ValueError(
                "`eval_dataset` must be one dataset of held-out images" + (", got several." if chosen else ".")
            )
        args = self.args
        images = HeldOutImages(
            chosen,
            self.train_dataset,
            self.data_collator,
            self.processing_class if "knn" in args.monitors else None,
            num_images=args.monitor_images,
            batch_size=args.per_device_train_batch_size,
            seed=args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            device=args.device,
        )
        if dataset is None:
            self._held_out = images
        return images

    # Logs

    def _begin_window(self) -> None:
        self._parts = torch.zeros(2, device=self.args.device)
        self._micro_batches, self._images, self._waited = 0, 0, 0.0
        self._window_start = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss parts, speed and waiting time, averaged over the steps since the last log and over ranks."""
        self._check_guard(wait=True)
        if "loss" in logs and self._micro_batches:
            elapsed = time.perf_counter() - self._window_start
            local = [*(self._parts / self._micro_batches).tolist(), self._images / elapsed, self._waited / elapsed]
            local += [float(self._broken.num_broken), self.energy.joules()]
            with self._cost:
                measured = {name: value for monitor in self._monitors() for name, value in monitor.measure().items()}
            local += measured.values()
            mean = self.accelerator.reduce(torch.tensor(local, device=self.args.device), "mean").tolist()
            logs["prediction_loss"], logs["sigreg_loss"] = mean[0], mean[1]
            logs["images_per_second"] = mean[2] * self.args.world_size
            logs["data_wait_fraction"] = mean[3]
            if mean[4]:
                logs["broken_images"] = round(mean[4] * self.args.world_size)
            if not math.isnan(mean[5]):
                logs["energy_kwh"] = mean[5] * self.args.world_size / 3.6e6
            logs |= dict(zip(measured, mean[6:], strict=True))
            if self._null_mean is not None:
                logs["sigreg_over_null"] = logs["sigreg_loss"] / self._null_mean
            self._begin_window()
        if "loss" in logs or "train_runtime" in logs:
            logs |= self._cost.measure()
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
            self.check_resume(resume_from_checkpoint)
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:  # the base class would take one step more
                self._load_from_checkpoint(resume_from_checkpoint)
                self._load_callbacks(resume_from_checkpoint)
                self.state = state
                if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
                    self._load_best_model()
                return TrainOutput(state.global_step, float("nan"), {})
            self._start = read_positions(resume_from_checkpoint)
            if len(self._start) == self.args.world_size:
                own = self._start[self.args.process_index]
                self._broken.num_images, self._broken.num_broken = own.num_images, own.num_broken
        logger.info(f"Training on {describe_launch(self.args, self.accelerator)}.")
        self._begin_window()
        self._cost = MonitorCost()
        self.energy = EnergyMeter(self.args.device, self.args.local_process_index == 0)
        with self._preemption.listening():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @property
    def preempted(self) -> bool:
        """Whether SIGTERM ended the last training before its last step."""
        return self._preemption.stopped

    def check_resume(self, checkpoint: str | Path) -> None:
        """
        Args:
            checkpoint (`str` or `Path`): To be resumed from.

        Raises:
            ValueError: If it belongs to a run with another model, seed, batch or views; all differing keys are named.
        """
        compare_settings(checkpoint, *self._settings())

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must not and what may change in a resumed run."""
        args = self.args
        parts = args.gradient_accumulation_steps
        fixed = {
            **flat_config(self.model.config.to_dict()),
            **dataclasses.asdict(self.data_collator.transform),
            "seed": args.seed,
            "data_seed": args.data_seed,
            "global_batch": self.global_batch,
            "images SIGReg judges at once": self.global_batch // (1 if args.exact_accumulation else parts),
            "images of the dataset": self._num_images,
            "optim": str(getattr(args.optim, "value", args.optim)),
        }
        names = ("learning_rate", "weight_decay", "max_steps", "warmup_steps", "lr_scheduler_type", "max_grad_norm")
        free = {name: getattr(args, name) for name in (*names, "lr_scheduler_kwargs", "bf16", "fp16")}
        return fixed, free | {"processes": args.world_size}

    def _save_checkpoint(self, model, trial) -> None:
        self._check_guard(wait=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        state = RankState(self._readers, self._broken.num_images, self._broken.num_broken)
        write_position(output_dir, self.args.process_index, state)
        if self.is_world_process_zero():
            write_settings(output_dir, *self._settings(), self.args.world_size)
        super()._save_rng_state(output_dir)

    # Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: whoever builds the run makes the repository, see [`~hub.checkpoint_push.prepare_repository`]."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Not as the base class, which pushes what is in training, and a card that says little."""

    def push_to_hub(self, *args, **kwargs) -> None:
        """Nothing: a run is published by [`~hub.push.push_run`] when it is finished."""
