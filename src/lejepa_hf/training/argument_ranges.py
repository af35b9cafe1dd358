"""Which numbers each argument of a training accepts."""

from collections.abc import Mapping
from typing import Any

from ..system.number_range import NumberRange, whole

_POSITIVE = NumberRange(0, without=(0, float("inf")))
_NOT_NEGATIVE = NumberRange(0)
_SHARE = NumberRange(0, 1)
_MOMENT = NumberRange(0, 1, without=(1,))
_SEED = whole(0, 2**32 - 1)


def _interval(off: str) -> NumberRange:
    way_out = f"a number of steps, or below 1 a share of all steps; {off}"
    return NumberRange(0, 2**31 - 1, without=(0,), others=(None,), way_out=way_out)


RANGES: dict[str, NumberRange] = {
    "per_device_train_batch_size": whole(1),
    "gradient_accumulation_steps": whole(1),
    "max_steps": whole(1, others=(-1,), way_out="-1 trains for `num_train_epochs`"),
    "num_train_epochs": NumberRange(0, without=(0, float("inf")), way_out="or set `max_steps`"),
    "learning_rate": _POSITIVE,
    "warmup_steps": NumberRange(0, 2**31 - 1, way_out="a number of steps, or below 1 a share of all steps"),
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": NumberRange(0, without=(), way_out="0 for no clipping"),
    "adam_beta1": _MOMENT,
    "adam_beta2": _MOMENT,
    "adam_epsilon": _SHARE,
    "torch_empty_cache_steps": whole(1, others=(None,)),
    "logging_steps": _interval("`logging_strategy: 'no'` logs nothing"),
    "eval_steps": _interval("`eval_strategy: 'no'` evaluates nothing"),
    "save_steps": _interval("`save_strategy: 'no'` saves no checkpoint"),
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": whole(1, others=(None,), way_out="null keeps all checkpoints"),
    "seed": _SEED,
    "data_seed": whole(0, 2**32 - 1, others=(None,)),
    "dataloader_num_workers": whole(0, 1024, others=(None,), way_out="0 reads images in the training's own process"),
    "dataloader_prefetch_factor": whole(1, 1024, others=(None,)),
    "ddp_bucket_cap_mb": whole(1, others=(None,)),
    "ddp_timeout": whole(1),
    "local_rank": whole(-1),
    "ema_decay": NumberRange(0, 1, without=(1,), way_out="0 for no average, else about 0.999"),
    "shuffle_buffer_size": whole(1),
    "max_bad_fraction": _SHARE,
    "max_network_retries": whole(0),
    "monitor_images": whole(2),
}


def check_precision(values: Mapping[str, Any]) -> None:
    """Refuse both kinds of half precision at once."""
    if values.get("fp16") and values.get("bf16") is True:
        raise ValueError("`fp16` and `bf16` are both true: choose one, or `bf16: auto` alone.")


def check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse the first argument outside of its range; `num_train_epochs` is not read where `max_steps` is set."""
    for name, accepted in RANGES.items():
        is_read = name != "num_train_epochs" or values.get("max_steps") == -1
        if name in values and is_read:
            accepted.check(name, values[name])
    if values["learning_rate"] * values["weight_decay"] >= 1:
        raise ValueError(
            f"`weight_decay` {values['weight_decay']} times `learning_rate` {values['learning_rate']} must be below "
            "1: a step would replace the weights instead of shrinking them."
        )
