"""
The contract with transformers, and the list of the private methods of its Trainer on which this package depends: fails
by name when one of them is renamed or called elsewhere.
"""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from transformers import Trainer

import lejepa_hf
from lejepa_hf import LeJEPATrainer

# Overridden method -> its parameters, and the method of the base class that calls it.
OVERRIDDEN = {
    # A checkpoint is written to another folder and renamed when all ranks are done; `on_save` comes too late.
    "_save_checkpoint": (("self", "model", "trial"), "_maybe_log_save_evaluate"),
    # Weights that do not fit are an error; the base class logs a warning.
    "_issue_warnings_after_load": (("self", "load_result"), "_load_from_checkpoint"),
    # The rates of the optimizer are known before a checkpoint replaces them, whoever made it.
    "_load_optimizer_and_scheduler": (("self", "checkpoint"), "_prepare_for_training"),
    # The best checkpoint is read only if it can be, and cannot run code.
    "_load_best_model": (("self",), "_finalize_training"),
    # Views get their photometric part on the device, from numbers that stay on the host.
    "_prepare_inputs": (("self", "inputs"), "training_step"),
    # The measured norm is checked before the optimizer uses the gradient; callbacks do not receive it.
    "_get_grad_norm": (("self", "model", "grad_norm"), "_run_epoch"),
}

CALLED = {
    "_load_from_checkpoint": "a finished run is loaded without a further step",
}

# Method of the base class -> calls in it whose order matters.
ORDER = {
    "_save_checkpoint": (
        *("_get_output_dir", "save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state"),
        *("save_to_json", "rotate_checkpoints"),
    ),
    "_maybe_log_save_evaluate": ("log", "_evaluate", "_determine_best_metric", "_save_checkpoint", "on_save"),
    "_prepare_for_training": ("create_optimizer", "create_scheduler", "_load_optimizer_and_scheduler"),
    "_inner_training_loop": ("_prepare_for_training", "on_train_begin", "on_epoch_begin", "_run_epoch"),
    "_finalize_training": ("log", "_load_best_model", "on_train_end"),
    "training_step": ("_prepare_inputs", "compute_loss", "backward"),
    "_run_epoch": ("_load_rng_state", "get_batch_samples", "training_step", "_get_grad_norm", "step", "on_step_end"),
}

OURS = [kind for kind in LeJEPATrainer.__mro__ if kind.__module__.startswith("lejepa_hf")]


def calls(function) -> list[str]:
    """Names of what a function calls, in the order of its text."""
    nodes = [
        node
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
        if isinstance(node, ast.Call)
    ]
    nodes.sort(key=lambda node: (node.func.end_lineno, node.func.end_col_offset))
    return [node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "") for node in nodes]


def private(names) -> set[str]:
    return {name for name in names if name.startswith("_") and not name.startswith("__") and hasattr(Trainer, name)}


def test_the_list_is_complete():
    assert private(name for kind in OURS for name in vars(kind)) == set(OVERRIDDEN)
    used = set()
    for path in Path(lejepa_hf.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used |= {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
    assert private(used) - set(OVERRIDDEN) == set(CALLED)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_is_overridden_is_called_as_before(name):
    assert hasattr(Trainer, name), f"transformers has no `Trainer.{name}` any more"
    parameters, caller = OVERRIDDEN[name]
    assert tuple(inspect.signature(getattr(Trainer, name)).parameters) == parameters
    assert name in calls(getattr(Trainer, caller)), f"`Trainer.{caller}` no longer calls `{name}`"


@pytest.mark.parametrize("name", [*CALLED, *ORDER])
def test_what_is_called_exists(name):
    assert hasattr(Trainer, name), f"transformers has no `Trainer.{name}` any more"


@pytest.mark.parametrize("name", ORDER)
def test_the_base_class_keeps_its_order(name):
    found = calls(getattr(Trainer, name))
    missing = [wanted for wanted in ORDER[name] if wanted not in found]
    assert not missing, f"`Trainer.{name}` no longer calls {missing}"
    places = [found.index(wanted) for wanted in ORDER[name]]
    assert places == sorted(places), f"`Trainer.{name}` calls in another order: {found}"
