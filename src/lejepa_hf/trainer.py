"""LeJEPATrainer: the Hugging Face Trainer for a loss over views."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, TrainerCallback, TrainerState
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from .data.batch import BROKEN, GLOBAL_VIEWS, PHOTOMETRIC_KEYS, POSITION, PROBE_LABELS
from .data.class_balance import ClassBalanced, balance_classes
from .data.collator import MultiCropCollator
from .data.dataset_kinds import Mixture, count_classes, is_stream
from .data.errors import BrokenImages, StreamInterrupted
from .data.image_contents import checksum_of_rows
from .data.photometric import apply_photometric
from .data.reader_state import RankState, ReaderPosition, advance, read_positions, write_position
from .data.streaming import EndlessRows, prepare_worker
from .model.architecture import find_blocks, is_convolutional
from .modeling_lejepa import LeJEPAForPreTraining, LeJEPAOutput
from .system.run_folder import RunFolder
from .training.argument_table import CONSTRUCTOR, refuse_arguments
from .training.callbacks.held_out import HeldOutImages
from .training.callbacks.log_lines import LogLines
from .training.callbacks.monitor import HeldOutMonitor, MonitoredRun
from .training.callbacks.monitor_registry import build_monitors
from .training.callbacks.progress import DataHint, LastRow, MetricsFile, ProgressBar
from .training.checkpoints import resolve_resume
from .training.compilation import compile_if_requested, left_to_us
from .training.construction_checks import (
    check_held_out,
    check_images,
    check_kinds,
    check_not_trained_on,
    check_one_dataset,
    check_push,
)
from .training.encoder_average import EncoderAverage
from .training.exact_accumulation import ExactAccumulation
from .training.launch_checks import (
    check_backend,
    check_launch,
    check_same_everywhere,
    check_shared_folder,
    describe_launch,
)
from .training.measuring_trainer import MeasuringTrainer
from .training.own_arguments import own_arguments
from .training.preemption import Preemption
from .training.resume_settings import compare_settings, run_settings, write_settings
from .training.trainer_defaults import (
    default_arguments,
    fitting_views,
    processor_of,
    starting_model,
    with_columns,
)
from .training_args import LeJEPATrainingArguments

logger = logging.getLogger("lejepa_hf")


class LeJEPATrainer(MeasuringTrainer):
    """
    Trains [`LeJEPAForPreTraining`] on rows with an image.

    Differences from the base class: rows come from [`~data.streaming.EndlessRows`], which splits them over ranks and
    workers and resumes at the exact batch; the photometric part of the views is computed on the device; the loss is
    never rescaled; the directions follow the global step; with `exact_accumulation` micro-batches give the loss of one
    large batch; SIGTERM and SIGINT end it with a checkpoint (`preempted` is then true); a launch that would silently
    run as something else is refused. Checkpoints are described in [`CheckpointingTrainer`], logged rows and
    evaluations in [`MeasuringTrainer`]. To push checkpoints to the Hub, add [`~hub.checkpoint_push.CheckpointPush`] to
    `callbacks`.

    Args:
        model ([`LeJEPAForPreTraining`], config or `str`): Model to train; the config of one, or of a backbone, whose
            weights are then drawn; or the Hub id or folder of one, or of any vision model, as in
            [`~LeJEPAForPreTraining.from_pretrained_backbone`].
        args ([`LeJEPATrainingArguments`], *optional*): How to train; the Trainer works with a copy. If missing, 5,000
            steps of 128 images or fewer, in `runs/` under the model's name.
        train_dataset: Map-style (length and integer index) or a `datasets.IterableDataset`, rows with an image.
        data_collator ([`MultiCropCollator`], *optional*): Cuts the views. With its `label_column` monitors may use
            labels; the model never sees them. If missing, the published views in sizes that the backbone accepts, and
            for a dataset of `datasets` the columns of images and labels that its types show.
        eval_dataset (*optional*): One dataset of held-out images with the columns of the training set.
        processing_class (*optional*): The image processor for the encoder, which is saved with the model and used by
            k-NN on the held-out images. If missing, one for the global views' size and normalisation.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks.
        kwargs: `optimizers` and `optimizer_cls_and_kwargs`, as in `Trainer`; others are refused.

    Raises:
        TypeError: If model, arguments, collator or processor are of another kind.
        ValueError: If datasets or arguments cannot be used together, an argument would have no effect, or the launch
            is not what was requested; the message says what to change.
    """

    args: LeJEPATrainingArguments
    data_collator: MultiCropCollator  # type: ignore[assignment]  # returns a Batch, which is a dict
    processing_class: BaseImageProcessor
    # The loss is a mean over a micro-batch: the base class divides it by the number of micro-batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        # None is refused; so is `model_init`, with its own message.
        model: LeJEPAForPreTraining | PreTrainedConfig | str | Path | None = None,
        args: LeJEPATrainingArguments | None = None,
        train_dataset: object = None,
        data_collator: MultiCropCollator | None = None,
        *,
        eval_dataset: object = None,
        processing_class: BaseImageProcessor | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        **kwargs: object,
    ) -> None:
        if args is not None and not isinstance(args, LeJEPATrainingArguments):
            raise TypeError(
                f"`args` must be LeJEPATrainingArguments, got {type(args).__name__}: they take the same arguments."
            )
        refuse_arguments(kwargs, CONSTRUCTOR)
        if args is None:
            args = LeJEPATrainingArguments(**default_arguments(model, check_images(train_dataset, global_batch=2)))
        check_push(args, callbacks or [])
        check_launch(args)
        global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        num_images = check_images(train_dataset, global_batch)
        check_not_trained_on(train_dataset, eval_dataset)
        started = starting_model(model, args.seed)
        check_kinds(started, data_collator, processing_class, args.recomputes_activations)
        model, checkpoint = cast("LeJEPAForPreTraining", started), model if isinstance(model, str | Path) else None
        if data_collator is None:
            train_dataset, images, labels = with_columns(train_dataset)
            data_collator = MultiCropCollator(fitting_views(model, args.seed, checkpoint), images, labels)
        collator = data_collator
        if processing_class is None:
            processing_class = processor_of(collator)
        label_column = collator.label_column
        self._balanced: ClassBalanced | None = None
        if args.class_balanced:
            self._balanced = balance_classes(train_dataset, label_column, collator.image_column)
        num_classes = None if label_column is None else count_classes(train_dataset, label_column)
        measured = [name for name in args.monitors if name != "probe" or (num_classes or 0) > 1]
        check_held_out(eval_dataset, args, collator, processing_class, measured)
        # What FSDP shards: the backbone's blocks, where the classes' own lists name parts of blocks or nothing at all.
        model._no_split_modules = {type(block).__name__ for block in find_blocks(model.encoder.backbone)}
        super().__init__(
            model=model,
            args=own_arguments(args, num_images, global_batch),
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks and list(callbacks),
            num_images=num_images,
            global_batch=global_batch,
            **kwargs,
        )
        parts = 1 if args.exact_accumulation else args.gradient_accumulation_steps
        self._images_per_statistic = global_batch // parts
        self._broken = BrokenImages(args.max_bad_fraction)
        self._labels: list[torch.Tensor | None] = []
        self._start: list[RankState] | None = None
        self._readers: list[ReaderPosition] = []
        self._prepare_model(model)
        self._exact = ExactAccumulation(model) if args.exact_accumulation else None
        self._preemption = Preemption()
        self.encoder_average = EncoderAverage(args.ema_decay) if args.ema_decay else None
        self._add_callbacks(num_classes, logs_epochs=args.logging_strategy == "epoch")

    def _prepare_model(self, model: LeJEPAForPreTraining) -> None:
        args = self.args
        check_backend(args, self.accelerator)
        check_shared_folder(str(args.output_dir), args.process_index, args.world_size)
        if args.world_size > 1 and self._num_images is not None:  # a stream would have to be read by every rank
            images = {"the number of training images": self._num_images, **self._data_identity}
            check_same_everywhere({f"`train_dataset`: {name}": value for name, value in images.items()})
        if is_convolutional(model.encoder.backbone) and args.device.type != "mps" and not self.is_fsdp_enabled:
            model.encoder.use_channels_last()
        compile_if_requested(model.encoder.backbone, args, by_block=self.is_fsdp_enabled)

    def _add_callbacks(self, num_classes: int | None, logs_epochs: bool) -> None:
        args, collator = self.args, self.data_collator
        run = MonitoredRun(
            self.model,
            num_global_views=collator.transform.num_global_views,
            num_classes=num_classes,
            images_per_statistic=self._images_per_statistic,
            device=args.device,
        )
        own = [self._preemption, MetricsFile(RunFolder(str(args.output_dir))), DataHint()]
        own += [] if self.encoder_average is None else [self.encoder_average]
        own += [LastRow()] if logs_epochs else []
        has_bar, has_printer = (self.pop_callback(one) is not None for one in (ProgressCallback, PrinterCallback))
        own += [ProgressBar()] if has_bar else []
        own += [LogLines()] if has_bar or has_printer else []  # a notebook has a table of its own
        for callback in [*own, *build_monitors(args.monitors, run)]:
            self.add_callback(callback)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """A plain loader, not prepared by Accelerate: [`EndlessRows`] has split the rows already."""
        args = self.args
        rows = EndlessRows(
            self.train_dataset if self._balanced is None else self._balanced,
            batch_size=args.per_device_train_batch_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            num_readers=max(1, args.dataloader_num_workers or 0),
            start=None if self._start is None else [rank.readers for rank in self._start],
            image_column=self.data_collator.image_column,
            shuffle_buffer_size=args.shuffle_buffer_size,
            max_retries=args.max_network_retries,
        )
        self._readers = rows.readers
        num_workers = rows.num_workers(args.dataloader_num_workers or 0)
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
            multiprocessing_context=args.dataloader_multiprocessing_context if num_workers else None,
            drop_last=True,
            worker_init_fn=prepare_worker,
            # The loader draws a seed when it starts. From the global generator a resumed run would draw one number
            # more than an uninterrupted run, and dropout would differ from then on.
            generator=torch.Generator().manual_seed(args.seed),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        """Like the base class; also follows the position in the data, and measures the waiting time."""
        begin = time.perf_counter()
        try:
            batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        except StreamInterrupted:
            # With several processes the others would wait in a step that never comes.
            if self.args.world_size == 1 and self.state.global_step > 0:
                self._save_checkpoint(self.model, trial=None)
                logger.warning(f"Step {self.state.global_step} is saved.")
            raise
        for batch in batches[0]:
            if POSITION in batch:
                self._readers = advance(self._readers, batch.pop(POSITION))
            self._broken.count(self.args.per_device_train_batch_size, batch.pop(BROKEN, []))
        self._labels = [batch.pop(PROBE_LABELS, None) for batch in batches[0]]
        self._window.waited += time.perf_counter() - begin
        if self._exact is not None:
            self.model_wrapped.train()
            self._exact.collect(batches[0], partial(self._forward, step=self.state.global_step))
        return batches

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Random numbers stay on the host, which turns them into parameters: reading them back would stall the device.
        # Views are in pinned memory; the base class would wait until they are copied.
        drawn = {name: value for name, value in inputs.items() if name in PHOTOMETRIC_KEYS}
        views = {name: inputs[name].to(self.args.device, non_blocking=True) for name in inputs if name not in drawn}
        return apply_photometric(views | drawn, self.data_collator.transform) if drawn else views

    # Loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: object = None
    ) -> torch.Tensor | tuple[torch.Tensor, LeJEPAOutput]:
        """The objective of one micro-batch, with the directions of the current optimiser step."""
        kwargs = {"step": self.state.global_step}
        if self._exact is not None and model.training:
            kwargs |= self._exact.next_part(self.args.device)
        outputs: LeJEPAOutput = model(**inputs, **kwargs)
        assert outputs.loss is not None and outputs.embeddings is not None
        assert outputs.prediction_loss is not None and outputs.sigreg_loss is not None
        parts = {"prediction_loss": outputs.prediction_loss, "sigreg_loss": outputs.sigreg_loss}
        self._guard.watch(self.state.global_step, **parts)
        self._guard.check()
        if model.training:
            self._window.add(**parts, num_images=len(inputs[GLOBAL_VIEWS]))
            with self._cost:
                labels = self._labels.pop(0) if self._labels else None
                for monitor in self._monitors():
                    monitor.observe(outputs.embeddings.detach(), labels)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and filters decay; norms, biases and other vectors do not."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def _open_held_out(self, dataset: object) -> HeldOutImages:
        args = self.args
        if dataset is None:
            raise ValueError("`eval_dataset` is missing: pass held-out images to the Trainer, or to `evaluate`.")
        check_one_dataset(dataset, args.world_size, self.data_collator.image_column)
        return HeldOutImages(
            dataset,
            self.train_dataset,
            self.data_collator,
            self.processing_class,
            num_images=args.monitor_images,
            args=args,
            with_knn="knn" in args.monitors,
            monitors=[monitor for monitor in self._monitors() if isinstance(monitor, HeldOutMonitor)],
        )

    # Resume

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: object = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Train, from a complete checkpoint folder on if given, or from the newest one in `output_dir` with `True`; if
        missing, as `args.resume` says.
        """
        if resume_from_checkpoint is None and self.args.resume is not None:
            resume_from_checkpoint = resolve_resume(self.args.resume, str(self.args.output_dir))
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        folder = RunFolder(str(self.args.output_dir))
        if self.state.global_step == 0:  # a trainer may train again in its own folder
            folder.claim(checkpoint, is_started=True)
        self._start = None
        if checkpoint is not None:
            self.check_resume(checkpoint)
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:  # the base class would take one step more
                return self._load_finished(checkpoint, state)
            self._start = read_positions(checkpoint)
            if len(self._start) == self.args.world_size:
                own = self._start[self.args.process_index]
                self._broken.num_images, self._broken.num_broken = own.num_images, own.num_broken
        self._states.checkpoint = checkpoint
        if self.is_world_process_zero():
            _ = self._data_identity  # now: at a checkpoint the network of a stream may be lost
        logger.info(f"Training on {describe_launch(self.args, self.accelerator)}.")
        self._begin_measuring()
        holding = folder.held() if self.is_world_process_zero() else nullcontext()
        with holding, self._preemption.listening(), left_to_us(self.accelerator), warnings.catch_warnings():
            # FSDP warns in every step that outputs must not be changed in place; they are not.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def hyperparameter_search(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: trials would share one model and one run folder."""
        raise NotImplementedError(
            "`hyperparameter_search` needs a `model_init`, which this Trainer does not take: build a model and a "
            "Trainer with its own `output_dir` for each trial, for example in the objective of an optuna study."
        )

    @property
    def preempted(self) -> bool:
        """Whether SIGTERM or SIGINT ended the last training before its last step."""
        return self._preemption.stopped

    def check_resume(self, checkpoint: str | Path) -> None:
        """Refuse a checkpoint of a run with another model, images, seed, batch or views; all such keys are named."""
        compare_settings(checkpoint, *self._settings())

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        sizes: dict[str, int | None] = {"global_batch": self.global_batch}
        sizes["images_per_statistic"] = self._images_per_statistic
        views, model_config = self.data_collator.transform, self.model.config.to_dict()
        sizes["dataset_images"] = self._num_images
        column = {} if self.data_collator.view_column is None else {"view_column": self.data_collator.view_column}
        fixed, free = run_settings(self.args, model_config, views, **sizes, **column, **self._data_identity)
        # Which rows stand at which place: checkpoints from before this key hold False.
        fixed["class_balanced"] = self.data_collator.label_column if self.args.class_balanced else False
        if isinstance(self.train_dataset, Mixture):
            free["mixture_weights"] = self.train_dataset.weights
        return fixed, free

    @cached_property
    def _data_identity(self) -> dict[str, str]:
        """The training images by their content, so that they may move; empty if they have none that can be read."""
        checksum = checksum_of_rows(self.train_dataset, self.data_collator.image_column)
        # Of a stream other rows count: it is not compared with the same images on disk.
        key = "stream" if is_stream(self.train_dataset) else "dataset"
        return {} if checksum is None else {key: f"images with the checksum {checksum[:16]}"}

    def _write_parts(self, checkpoint: Path) -> None:
        super()._write_parts(checkpoint)
        state = RankState(self._readers, self._broken.num_images, self._broken.num_broken)
        write_position(checkpoint, self.args.process_index, state)
        if self.is_world_process_zero():
            write_settings(checkpoint, *self._settings(), self.args.world_size)
