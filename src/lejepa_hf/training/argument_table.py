"""Which arguments of transformers are honoured, which are translated, and which are refused when they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from .callbacks.held_out import MEASURES


@dataclass(frozen=True)
class Honoured:
    """The argument does what transformers documents, if its value passes [`check_honoured`]."""


@dataclass(frozen=True)
class Translated:
    """The argument takes effect by other means than in transformers: `how` says what becomes of it, and where."""

    how: str


@dataclass(frozen=True)
class Refused:
    """
    The argument would have no effect, or a harmful one, for this `reason`: any value is an error, except those
    `accepted`, which request nothing; the first of them is the default.
    """

    reason: str
    accepted: tuple[Any, ...] = (None,)


Decision = Honoured | Translated | Refused

_LOADER_SETTINGS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking")
_IN_STEPS = Translated("epochs become as many steps, `own_arguments`")
_BACKBONE_ALONE = Translated("the backbone alone is compiled, `compile_if_requested`")
_NO_TEXT = "there are no tokens or labels in pretraining on images"
_NO_LOOP = "evaluations during training measure `monitor_images` held-out images in batches of the training's size"
_ONE_LOADER = "the loader never comes to an end, and its position is saved in checkpoints"

# `do_train` is for the caller's script, `local_rank` for its parser, as in transformers.
_HONOURED = (
    *("output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "do_train"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("bf16", "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"),
    *("logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm"),
    *("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("eval_steps", "eval_on_start", "save_steps", "save_only_model", "save_total_limit", "load_best_model_at_end"),
    *("do_eval", "metric_for_best_model", "greater_is_better", "seed", "data_seed", "full_determinism"),
    *("restore_callback_states_from_checkpoint", "accelerator_config"),
    *("use_cpu", "skip_memory_metrics", "debug", "local_rank", "fsdp", "fsdp_config"),
    *("dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
    *("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"),
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_always_push", "hub_revision"),
)

ARGUMENTS: dict[str, Decision] = {
    **dict.fromkeys(_HONOURED, Honoured()),
    **dict.fromkeys(
        ("prediction_loss_only", "eval_use_gather_object", "batch_eval_metrics"), Refused(_NO_LOOP, (False,))
    ),
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"), Refused("evaluations use the precision of training", (False,))
    ),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), Refused("it is for language models", (False, None))),
    "num_train_epochs": Translated("passes over the images, as `max_steps` of the Trainer's own arguments"),
    "lr_scheduler_kwargs": Translated("the published end of the cosine for its type only, `fitting_kwargs`"),
    **dict.fromkeys(("logging_strategy", "eval_strategy", "save_strategy", "eval_delay"), _IN_STEPS),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), _BACKBONE_ALONE),
    "push_to_hub": Translated("a callback pushes checkpoints, `CheckpointPush`"),
    "hub_strategy": Translated("read by `CheckpointPush`; the Trainer itself refuses 'end'"),
    "dataloader_num_workers": Translated("None becomes a share of the cores"),
    "ddp_find_unused_parameters": Translated("None becomes false: there are none"),
    "dataloader_persistent_workers": Translated("always: " + _ONE_LOADER),
    "auto_find_batch_size": Refused(
        "SIGReg depends on the batch: set `per_device_train_batch_size`; `lejepa plan RECIPE --fit` finds what fits",
        (False,),
    ),
    "average_tokens_across_devices": Refused(_NO_TEXT, (True,)),
    "label_smoothing_factor": Refused(_NO_TEXT, (0.0,)),
    "include_num_input_tokens_seen": Refused(_NO_TEXT, ("no", False)),
    "label_names": Refused("set `label_column` of the collator; only monitors use labels", (None, [])),
    "neftune_noise_alpha": Refused(_NO_TEXT),
    "use_cache": Refused("it is the cache of language models", (False,)),
    "train_sampling_strategy": Refused("images are reshuffled in every epoch", ("random",)),
    "length_column_name": Refused("images are not grouped by length", ("length",)),
    "per_device_eval_batch_size": Refused("evaluations use `per_device_train_batch_size`, to be comparable", (8,)),
    "eval_do_concat_batches": Refused(_NO_LOOP, (True,)),
    "eval_accumulation_steps": Refused(_NO_LOOP),
    "include_for_metrics": Refused(_NO_LOOP, ([],)),
    "do_predict": Refused("use `lejepa embed` with the finished encoder", (False,)),
    "logging_nan_inf_filter": Refused("a loss that is NaN or infinite stops the run, and is never hidden", (False,)),
    "remove_unused_columns": Refused("the image column would be dropped before its use", (False,)),
    "save_on_each_node": Refused("a checkpoint holds a part of every rank, in one folder all nodes share", (False,)),
    "enable_jit_checkpoint": Refused("SIGTERM always ends the run with a checkpoint", (False,)),
    "ignore_data_skip": Refused("a resumed run continues at the saved position and reads nothing twice", (True,)),
    "resume_from_checkpoint": Refused("use `resume`, or `trainer.train(resume_from_checkpoint=...)`"),
    "dataloader_drop_last": Refused("every batch is complete: " + _ONE_LOADER, (True,)),
    "dataloader_in_order": Refused("batches out of order could not be resumed", (True,)),
    "deepspeed": Refused("DeepSpeed is not supported, use FSDP2: `--config_file $(lejepa recipes accelerate/fsdp2)`"),
    "parallelism_config": Refused("only DDP and FSDP2 are supported"),
}

# Arguments of the Trainer's constructor.
CONSTRUCTOR: dict[str, Decision] = {
    **dict.fromkeys(("optimizers", "optimizer_cls_and_kwargs", "callbacks", "processing_class"), Honoured()),
    **dict.fromkeys(("model", "args", "train_dataset", "eval_dataset", "data_collator"), Honoured()),
    "model_init": Refused("pass a `model`, and build a Trainer for each trial of a hyperparameter search"),
    "compute_loss_func": Refused("the loss is part of the model: change it with `LeJEPAConfig`"),
    "compute_metrics": Refused(
        f"evaluations during training measure {', '.join(MEASURES)}; use `evaluate_encoder` for a finished encoder"
    ),
    "preprocess_logits_for_metrics": Refused("there are no logits"),
}


def refuse_arguments(values: Mapping[str, Any], table: Mapping[str, Decision]) -> None:
    """Refuse arguments given by the user, by name, that `table` ([`ARGUMENTS`] or [`CONSTRUCTOR`]) refuses."""
    for name, decision in table.items():
        if isinstance(decision, Refused) and name in values and values[name] not in decision.accepted:
            wanted, given = decision.accepted[0], values[name]
            raise ValueError(f"`{name}` must be {wanted!r}, got {given!r}: {decision.reason}.")


def check_honoured(args: TrainingArguments) -> None:
    """Refuse values that cannot be honoured, after transformers has converted all of them."""
    _check_accelerator_config(args.accelerator_config)
    _check_trackers(args.report_to)
    name = args.metric_for_best_model
    if name is not None and name.removeprefix("eval_") not in MEASURES:
        raise ValueError(
            f"`metric_for_best_model` must be one of {', '.join(MEASURES)}, which evaluations during training give, "
            f"got {name!r}."
        )
    if args.eval_strategy != IntervalStrategy.NO:
        return
    if args.save_strategy == SaveStrategy.BEST:
        raise ValueError("`save_strategy` 'best' needs evaluations: set `eval_strategy` to 'steps' or 'epoch'.")
    if args.do_eval:
        raise ValueError("`do_eval` is true but `eval_strategy` is 'no': set it to 'steps' or 'epoch'.")


def _check_trackers(names: str | list[str] | None) -> None:
    for name in names or []:  # transformers has made it a list
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"`report_to` {name!r} is unknown; known are {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in (*get_available_reporting_integrations(), "flyte"):  # which is missing in that list
            raise ValueError(f"`report_to` {name!r}: its package is not installed. Install it, or leave it out.")


def _check_accelerator_config(config: object) -> None:
    assert isinstance(config, AcceleratorConfig)  # transformers has made it one
    usual = {name: value for name, value in AcceleratorConfig().to_dict().items() if name in _LOADER_SETTINGS}
    changed = [name for name, value in config.to_dict().items() if value != usual.get(name, value)]
    if changed:
        raise ValueError(
            f"`accelerator_config` sets {', '.join(changed)}, which would have no effect: images are split over "
            "processes without Accelerate's loader. Leave them out."
        )
    if "num_steps" in (config.gradient_accumulation_kwargs or {}):
        raise ValueError("`accelerator_config` sets `num_steps`: use `gradient_accumulation_steps`.")
