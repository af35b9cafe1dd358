"""Mistakes in a command line of `lejepa train` or `plan` that show without torch, whose import takes seconds."""

import ast
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from ..data.dataset_files import DIGITS, FILE_KINDS, kind_of_files
from ..data.missing_paths import refuse_missing_path
from ..data.view_settings import ViewSettings
from ..training.argument_ranges import RANGES, check_precision
from ..training.trackers import check_trackers
from .objective_ranges import check_objective
from .recipe_help import read_keys
from .recipe_text import find_recipe, is_recipe, parse_command_line, read_recipe

_PLAIN = {"bool": bool, "dict": dict, "float": float, "int": int, "list": list, "str": str}


def check_early(arguments: list[str]) -> None:
    """
    Refuse a recipe or images that are not there, unknown keys, and values of another type or out of range.

    Args:
        arguments (`list[str]`): Recipe or images, then `--key value` pairs.

    Raises:
        ValueError: With the message that the run itself would end with, after seconds of imports.
    """
    given, pairs, types = arguments[0], arguments[1:], written_types()
    if is_recipe(given):
        values, overrides = read_recipe(find_recipe(given), pairs, types)
        values |= overrides
    else:
        values = parse_command_line(pairs, types)
        values.setdefault("dataset", given)
    _check_views(values)
    check_objective(values)
    for name, accepted in RANGES.items():
        if name in values and name != "num_train_epochs":  # which is not read beside `max_steps`
            accepted.check(name, values[name])
    check_precision(values)
    check_trackers(values.get("report_to"))
    if values.get("output_dir"):
        _check_folder(Path(values["output_dir"]))
    if values.get("dataset") and not values.get("mixture"):
        _check_path(os.path.expanduser(values["dataset"]))


def written_types() -> dict[str, Any]:
    """Every key of a recipe and its type, read from the texts of the dataclasses."""
    keys = {name: key for group in read_keys() for name, key in group.items()}
    return {name: _type_of(ast.parse(key.kind, mode="eval").body) for name, key in keys.items()}


def _type_of(node: ast.expr) -> Any:  # noqa: ANN401
    """A type from the text of its annotation; Any for a class that would have to be imported."""
    if isinstance(node, ast.BinOp):
        return _type_of(node.left) | _type_of(node.right)
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return Literal[tuple(part.value for part in parts if isinstance(part, ast.Constant))]
        return _type_of(node.value)[tuple(map(_type_of, parts))]
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    return _PLAIN.get(node.id, Any) if isinstance(node, ast.Name) else Any


def _check_views(values: dict[str, Any]) -> None:
    ViewSettings(**{item.name: values[item.name] for item in fields(ViewSettings) if item.name in values})


def _check_folder(folder: Path) -> None:
    """Refuse a place of the run that cannot be one: the folder itself is made later."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    is_folder = there.is_dir()
    if not is_folder or not os.access(there, os.W_OK):
        reason = "is a file" if not is_folder else "cannot be written to by this user"
        raise ValueError(f"`output_dir` {str(folder)!r}: {str(there)!r} {reason}; choose another `output_dir`.")


def _check_path(name: str) -> None:
    is_known = name in (*FILE_KINDS, DIGITS) or kind_of_files(name) or "://" in name
    if not is_known and not os.path.isdir(name):
        refuse_missing_path(name)
