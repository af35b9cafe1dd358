"""Mistakes in a command line of `lejepa train` or `plan` that show without torch, whose import takes seconds."""

import builtins
import os
import typing
from dataclasses import fields
from typing import Any

from ..data.dataset_files import DIGITS, FILE_KINDS, kind_of_files
from ..data.missing_paths import refuse_impossible_path
from ..data.view_settings import ViewSettings
from ..training.argument_ranges import RANGES
from .objective_ranges import check_objective
from .recipe_help import read_keys
from .recipe_text import find_recipe, is_recipe, parse_command_line, read_recipe


class _Names(dict[str, Any]):
    """Names in a type as it is written; anything for those of classes that would have to be imported."""

    def __missing__(self, name: str) -> object:
        return getattr(builtins, name, getattr(typing, name, Any))


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
    if values.get("dataset") and not values.get("mixture"):
        _check_path(os.path.expanduser(values["dataset"]))


def written_types() -> dict[str, Any]:
    """Every key of a recipe and its type, read from the texts of the dataclasses."""
    keys = {name: key for group in read_keys() for name, key in group.items()}
    # Texts of this package and of transformers, not of the user.
    return {name: eval(key.kind, {}, _Names()) for name, key in keys.items()}  # noqa: S307


def _check_views(values: dict[str, Any]) -> None:
    ViewSettings(**{item.name: values[item.name] for item in fields(ViewSettings) if item.name in values})


def _check_path(name: str) -> None:
    is_known = name in (*FILE_KINDS, DIGITS) or kind_of_files(name) or "://" in name
    if not is_known and not os.path.isdir(name):
        refuse_impossible_path(name)
