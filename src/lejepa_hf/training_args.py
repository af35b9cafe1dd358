"""LeJEPATrainingArguments: the Trainer's arguments with the method's defaults."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class LeJEPATrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with LeJEPA's published settings as defaults, and what this Trainer adds.

    AdamW, linear warmup, cosine to a thousandth of the peak, weight decay, no clipping. `num_train_epochs` counts
    passes over the images when their number is known; streams of unknown length need `max_steps`.

    Args:
        warmup_steps (`float`, *optional*, defaults to 0.1): Below 1 a share of all steps, from 1 on their number.
        exact_accumulation (`bool`, *optional*, defaults to `False`): With `gradient_accumulation_steps` n, give loss
            and gradient of the one batch n times as large, at the price of a second forward pass. Without it SIGReg
            judges each micro-batch by itself: its distance from the normal law counts for a n-th, and it is estimated
            with a bias of order 1 / micro-batch.
        shuffle_buffer_size (`int`, *optional*, defaults to 5000): Rows a streaming worker shuffles among.
        resume (`str`, *optional*): `"auto"`, the newest complete checkpoint in `output_dir`, or a checkpoint folder.

    Raises:
        ValueError: If a setting would lose images or corrupt the loss silently.
    """

    output_dir: str | None = field(default=None, metadata={"help": "Run folder."})
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    lr_scheduler_type: str = "cosine_with_min_lr"
    lr_scheduler_kwargs: dict | str | None = field(default_factory=lambda: {"min_lr_rate": 1e-3})
    warmup_steps: float = 0.1
    max_grad_norm: float = 0.0
    remove_unused_columns: bool = False
    dataloader_drop_last: bool = True
    ignore_data_skip: bool = True
    logging_nan_inf_filter: bool = False
    logging_steps: float = 10
    save_total_limit: int | None = 2
    exact_accumulation: bool = False
    shuffle_buffer_size: int = 5000
    resume: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be false: the image column would be dropped before its use."
            )
        parts = self.gradient_accumulation_steps if self.exact_accumulation else 1
        if self.per_device_train_batch_size * self.world_size * parts < 2:
            raise ValueError(
                "`per_device_train_batch_size` is 1 on one process: SIGReg compares the distribution of a batch with "
                "a normal one, which is undefined for a single image. Use at least 2, better 128 or more."
            )
        if self.shuffle_buffer_size < 1:
            raise ValueError(f"`shuffle_buffer_size` must be at least 1, got {self.shuffle_buffer_size}.")
