"""LeJEPATrainingArguments: the Trainer's arguments with the method's defaults."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from .data.network import MAX_RETRIES
from .system.devices import computes_in_bf16, cores_of_this_process, default_device
from .training.argument_ranges import check_precision, check_ranges
from .training.argument_table import ARGUMENTS, check_honoured, refuse_arguments
from .training.callbacks.monitor_registry import MONITORS, check_monitors
from .training.own_arguments import fitting_kwargs
from .training.trackers import check_trackers


@dataclass
class LeJEPATrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with LeJEPA's published settings as defaults, and what this Trainer adds.

    AdamW, linear warmup, cosine to a thousandth of the peak, weight decay, no clipping. `num_train_epochs` counts
    passes over the images when their number is known; streams of unknown length need `max_steps`. What becomes of
    each argument of transformers: [`~training.argument_table.ARGUMENTS`]; which numbers each of them accepts:
    [`~training.argument_ranges.RANGES`].

    Args:
        warmup_steps (`float`, *optional*, defaults to 0.1): Length of the linear warmup: a share of all steps if below
            1, otherwise a number of steps. If it is longer than the run, the learning rate rises until the end.
        optim (`str`, *optional*, defaults to `"adamw_torch_fused"`): Optimizer, any that transformers knows. The fused
            AdamW updates many weights by one kernel.
        bf16 (`bool` or `"auto"`, *optional*, defaults to `False`): Whether forward and backward passes run under
            autocast in bfloat16; losses, weights, gradients and AdamW's moments stay in fp32. With `"auto"` where that
            is faster: on NVIDIA GPUs from Ampere on, and on x86 CPUs with AVX512-BF16 or AMX, where convolutions take
            about half the time. `HfArgumentParser` takes true and false only.
        exact_accumulation (`bool`, *optional*, defaults to `False`): With `gradient_accumulation_steps` n, compute
            loss and gradient of one batch that is n times as large, at the price of a second forward pass. Otherwise
            SIGReg is computed for each micro-batch, where it counts for an n-th and has a larger bias.
        ema_decay (`float`, *optional*, defaults to 0.0): If above 0, decay (for example 0.999) of an exponential
            moving average of the encoder's weights, which is kept beside them, exported to `encoder_averaged/` and
            evaluated. It takes the memory of one more encoder.
        dataloader_num_workers (`int`, *optional*): Number of processes that decode images and cut views. By
            default one less than the cores of this process when training on an accelerator and a quarter of the cores
            when training on the CPU, at most 16. With fewer than four cores training on the CPU has none: all cores
            cut views and then train, which is up to 1.4 times as fast as a core for each.
        class_balanced (`bool`, *optional*, defaults to `False`): Whether each training image is drawn from any class
            with equal probability, however many images the class has: labels then decide how often images are seen.
            Needs a map-style dataset with one class for each image; an epoch still has as many images as the dataset.
        shuffle_buffer_size (`int`, *optional*, defaults to 1000): Size in rows of the shuffle buffer of each
            streaming worker. A row of ImageNet takes 110 kB.
        max_bad_fraction (`float`, *optional*, defaults to 0.01): Largest share of broken images, among all images
            read so far but at least a thousand, before the run stops. The next good image replaces a broken one.
        max_network_retries (`int`, *optional*, defaults to 8): Number of times a stream that lost its connection
            tries again, after 1, 2, 4, ... at most 60 seconds.
        monitors (`list[str]`, *optional*): Names of the monitors, all by default: `embeddings`, rank and spread of
            the embeddings; `probe`, an online linear probe if training images have labels, and its accuracy on
            held-out images at evaluations; `knn`, their k-NN accuracy; `health`, warnings of collapse and divergence.
        monitor_images (`int`, *optional*, defaults to 512): Number of held-out images in an evaluation during
            training, at least 2. k-NN searches for neighbours among four times as many training images.
        push_to_hub (`bool`, *optional*, defaults to `False`): Push the encoder of each checkpoint to the branch
            `checkpoint-N` of `hub_model_id` (`user/name`) during training, and the finished run to
            `hub_revision`, the main branch if missing. `hub_strategy` is `every_save` (checkpoints are skipped if
            uploads are slower than saves), `all_checkpoints` or `end`. In Python, this needs a
            [`~hub.checkpoint_push.CheckpointPush`] among the Trainer's callbacks.
        resume (`str`, *optional*): Checkpoint folder to resume from, or `"auto"` for the newest complete
            checkpoint in `output_dir`.

    Raises:
        ValueError: If an argument is refused or outside of its range; the message says what to change.
    """

    output_dir: str | None = field(
        default=None, metadata={"help": "Run folder, by default `runs/<name of the recipe>`."}
    )
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    lr_scheduler_type: str = "cosine_with_min_lr"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None  # with the default type {"min_lr_rate": 1e-3}
    warmup_steps: float = 0.1
    max_grad_norm: float = 0.0
    optim: str = "adamw_torch_fused"  # transformers' own default depends on the version of PyTorch
    remove_unused_columns: bool = False
    dataloader_drop_last: bool = True
    ignore_data_skip: bool = True
    logging_nan_inf_filter: bool = False
    logging_steps: float = 10
    bf16: bool | str = False  # type: ignore[assignment]  # true or false once it is decided below
    save_total_limit: int | None = 2
    exact_accumulation: bool = False
    ema_decay: float = 0.0
    dataloader_num_workers: int | None = None  # type: ignore[assignment]  # None until it is decided below
    class_balanced: bool = False
    shuffle_buffer_size: int = 1000
    max_bad_fraction: float = 0.01
    max_network_retries: int = MAX_RETRIES
    monitors: list[str] = field(default_factory=lambda: list(MONITORS))
    monitor_images: int = 512
    resume: str | None = None
    fsdp: bool | None = None  # type: ignore[assignment]  # the base class declares text, and means this

    def __post_init__(self) -> None:
        refuse_arguments(vars(self), ARGUMENTS)
        check_ranges(vars(self))
        check_precision(vars(self))
        check_trackers(self.report_to)
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise several processes would not be joined
        if isinstance(self.bf16, str):
            if self.bf16 != "auto":
                raise ValueError(f"`bf16` must be true, false or 'auto', got {self.bf16!r}.")
            self.bf16 = not self.fp16 and computes_in_bf16(torch.device("cpu") if self.use_cpu else default_device())
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # there are none, and looking for them costs a walk each step
        if self.dataloader_num_workers is None:
            accelerated = torch.accelerator.is_available() and not self.use_cpu
            cores = cores_of_this_process()
            share = cores - 1 if accelerated else cores // 4
            least = 1 if self.dataloader_prefetch_factor is not None else 0  # it is a setting of workers
            self.dataloader_num_workers = min(16, max(least, share))
        try:
            super().__post_init__()
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.doc!r} is not an argument's value in JSON, {error}.") from error
        self.lr_scheduler_kwargs = fitting_kwargs(self.lr_scheduler_type, self.lr_scheduler_kwargs, self.learning_rate)
        check_honoured(self)
        self._check_hub()
        self._check_batch()
        check_monitors(self.monitors)

    def _check_hub(self) -> None:
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("`push_to_hub` needs `hub_model_id`: 'user/name' of the repository.")
        if self.push_to_hub and self.hub_strategy == "checkpoint":
            raise ValueError(
                "`hub_strategy` 'checkpoint' would push the optimizer's state, which stays in the run folder: choose "
                "every_save, all_checkpoints or end."
            )

    def _check_batch(self) -> None:
        parts = self.gradient_accumulation_steps if self.exact_accumulation else 1
        if self.per_device_train_batch_size * self.world_size * parts < 2:
            raise ValueError(
                "`per_device_train_batch_size` is 1 on one process: SIGReg compares the distribution of a batch with "
                "a normal one, which is undefined for a single image. Use at least 2, better 128 or more."
            )

    @property
    def recomputes_activations(self) -> bool:
        """`activation_checkpointing`, which every version of transformers mirrors in `gradient_checkpointing`."""
        return bool(self.gradient_checkpointing)

    def to_dict(self) -> dict[str, Any]:
        """Values for loggers such as TensorBoard: no token, and of paths, which may name a user, the last part."""
        values = super().to_dict()
        paths = [name for name, value in values.items() if isinstance(value, str) and value.startswith(("/", "~"))]
        return values | {name: Path(values[name]).name for name in paths}
