"""The contract with transformers: fails by name when a private method we build on is renamed or called elsewhere."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from transformers import Trainer

import lejepa_hf
from lejepa_hf import LeJEPATrainer
from lejepa_hf.training.private_methods import CALLED, ORDER, OVERRIDDEN

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
