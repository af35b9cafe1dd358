"""Settings in the configs of others that would make a library read further files or run code."""

from transformers import PreTrainedConfig

from .architecture import is_timm, setting

# Arguments of `timm.create_model` that say where weights come from, not what the network is. Versions before 1.0.27
# read such files as pickles that can run code.
_FILES_OF_TIMM = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def refuse_foreign_settings(config: PreTrainedConfig) -> None:
    """
    Refuse a backbone's config that names files of weights, or code to download, instead of a network.

    ValueError with the setting, its value and the way out. An attention implementation with a slash in its name is a
    repository with compiled code; those of Hugging Face's own `kernels-community` are left to transformers.
    """
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    for part in parts:
        _refuse_files(part)
        _refuse_kernels(part)


def _refuse_files(config: PreTrainedConfig) -> None:
    given = (setting(config, "model_args") or {}) if is_timm(config) else {}
    assert isinstance(given, dict)
    for name in _FILES_OF_TIMM:
        if given.get(name):
            raise ValueError(
                f"`model_args` of the timm model names `{name}` {given[name]!r}: a config describes a network, not "
                "where weights come from. Remove the key; `pretrained_backbone` names pretrained weights."
            )


def _refuse_kernels(config: PreTrainedConfig) -> None:
    attention = str(config._attn_implementation)
    if any("/" in part and not part.startswith("kernels-community/") for part in attention.split("|")):
        raise ValueError(
            f"`attn_implementation` {attention!r} is a repository with compiled code, which is not run here: use "
            "`sdpa`, `eager` or `flash_attention_2`."
        )
