"""Common tests of transformers that cannot hold here: which, for which models and backbones, and why."""

from typing import NamedTuple


class Exclusion(NamedTuple):
    """
    Args:
        reason (`str`): Why the tests do not apply.
        tests (`tuple[str, ...]`): Their names.
        architectures (`tuple[str, ...]`, *optional*): Backbones of tiny_backbones.py; all if empty.
        models (`tuple[str, ...]`, *optional*): Names of our classes; both if empty.
    """

    reason: str
    tests: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


EXCLUSIONS = [
    Exclusion(
        "images have no table of tokens; `get_input_embeddings` is None, and nothing can be set.",
        ("test_model_get_set_embeddings",),
    ),
    Exclusion(
        "`save_pretrained` writes the names of our modules, not older published ones, because `Trainer` resumes by "
        "plain `load_state_dict` and would skip the others silently.",
        ("test_reverse_loading_mapping",),
        architectures=("vit", "dinov3", "swin"),
    ),
    Exclusion(
        "timm recomputes its blocks in a way of its own, without layers of transformers' class; "
        "tests/test_modeling_lejepa.py has the test for it.",
        (
            "test_gradient_checkpointing_enable_disable",
            "test_training_gradient_checkpointing",
            "test_training_gradient_checkpointing_use_reentrant_false",
            "test_training_gradient_checkpointing_use_reentrant_true",
        ),
        architectures=("timm",),
    ),
    Exclusion(
        "timm returns normed copies of its intermediate states, which the embedding does not depend on.",
        ("test_retain_grad_hidden_states_attentions",),
        architectures=("timm",),
    ),
]


def reason_for(test: str, architecture: str, model: str) -> str | None:
    """Why a test is left out for one model over one backbone, or None."""
    for exclusion in EXCLUSIONS:
        if (
            test in exclusion.tests
            and architecture in (exclusion.architectures or (architecture,))
            and model in (exclusion.models or (model,))
        ):
            return exclusion.reason
    return None
