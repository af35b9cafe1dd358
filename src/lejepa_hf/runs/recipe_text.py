"""
The text of a recipe and the command line -> values by key, of known names and types. Without torch: a mistake is then
refused in a second.
"""

import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from huggingface_hub.dataclasses import type_validator

from ..data.dataset_files import DIGITS, kind_of_files
from ..data.label_kinds import named_columns
from ..system.installed_package import find_packaged, packaged_name, packaged_recipes

_ALIASES = {"config": "dataset_config", "revision": "dataset_revision", "split": "train_split"}  # as in other commands
_TEXTS = ("eval_split", "group_column")  # which people and YAML may write as numbers


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 1.1 reads `5e-4` as text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def load_yaml(text: str) -> object:
    """Parse YAML with numbers as people write them."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader


def is_recipe(given: str) -> bool:
    """Whether a first argument names a recipe; ValueError if it does so with a mistake."""
    if given.startswith("--"):
        raise ValueError(f"The first argument must be a recipe or images, got {given!r}.")
    # A folder may have the name of a recipe: `./NAME` and `NAME/` are the folder.
    if kind_of_files(given) or (os.path.isdir(given) and given != os.path.normpath(given)):
        return False
    if os.path.isfile(given) or packaged_name(given) in packaged_recipes():
        return True
    if os.path.isdir(given):
        return False
    folders = {name.split("/")[0] for name in packaged_recipes()}
    is_near = difflib.get_close_matches(packaged_name(given), packaged_recipes(), n=1, cutoff=0.8)
    if is_near or given in {DIGITS, *folders} or given.endswith((".yaml", ".yml")):
        find_packaged(given)  # which raises the error
    return False


def find_recipe(recipe: str | Path) -> Path:
    """The file itself, or that of a packaged recipe by its name; ValueError if there is none."""
    return Path(recipe) if Path(recipe).is_file() else find_packaged(recipe)


def read_recipe(file: Path, arguments: list[str], types: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The values of a recipe's file, and those of the command line, which win, by key. `types` has the type of each key.
    ValueError if the file is not a recipe, or a key or the type of its value is wrong.
    """
    content = _read_file(file)
    for key in content:
        check_key(str(key), str(file), types)
    overrides = parse_command_line(arguments, types)
    return {key: _check_type(key, value, types[key], str(file)) for key, value in content.items()}, overrides


def check_key(key: str, where: str, known: Collection[str]) -> None:
    """Refuse a key that nothing reads; the message names where it was written and the nearest known key."""
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ValueError(f"`{key}` in {where} is not a known key.{hint}")


def parse_command_line(arguments: list[str], types: Mapping[str, Any]) -> dict[str, Any]:
    """
    The keys of a recipe in `--key value`, `--key=value`, `--list a b c`, and `--flag` alone for true or, for
    `--resume`, `auto`. `types` has the type of each key. ValueError for an unknown key or a value of another type.
    """
    values = dict[str, Any]()
    position = 0
    while position < len(arguments):
        token = arguments[position]
        if not token.startswith("--"):
            raise ValueError(f"{token!r} on the command line does not belong to a `--key`.")
        key, equals, inline = token[2:].partition("=")
        key = key.replace("-", "_")
        key = _ALIASES.get(key, key)
        check_key(key, "the command line", types)
        position += 1
        given = [inline] if equals else []
        while not equals and position < len(arguments) and not re.match(r"--[a-zA-Z]", arguments[position]):
            given.append(arguments[position])
            position += 1
        value = _command_line_value(key, given, types[key])
        if key == "label_column" and isinstance(value, str):
            value = named_columns(value)
        values[key] = _check_type(key, value, types[key], "the command line")
    return values


def _command_line_value(key: str, given: list[str], expected: object) -> object:
    is_list = get_origin(expected) is list
    kinds = (expected, *get_args(expected))
    if not given and key != "resume" and bool not in kinds:
        raise ValueError(f"`--{key}` on the command line has no value.")
    if not given:
        return "auto" if key == "resume" else True
    if not is_list and str in kinds and not {dict, bool}.intersection(kinds) and len(given) == 1:
        return None if given[0] == "null" and type(None) in kinds else given[0]
    parsed = [load_yaml(text) for text in given]
    return parsed if len(parsed) > 1 or (is_list and not isinstance(parsed[0], list)) else parsed[0]


def _check_type(key: str, value: object, expected: object, where: str) -> object:
    """The value, with integers made floats where the type is a float."""
    kinds = get_args(expected) if get_origin(expected) not in (None, list) else (expected,)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        value = float(value)
    if list[float] in (expected, *kinds) and isinstance(value, list):
        value = _with_floats(value)
    if key in _TEXTS and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is False and str in kinds and bool not in kinds:
        value = "no"  # as YAML reads `eval_strategy: no`
    try:
        type_validator(key, value, expected)
    except TypeError as error:
        if str(error).startswith("Unsupported type"):
            return value
        names = expected.__name__ if isinstance(expected, type) and not get_args(expected) else str(expected)
        raise ValueError(f"`{key}` in {where} must be {names}, got {value!r} ({type(value).__name__}).") from None
    return value


def _with_floats(values: list[Any]) -> list[Any]:
    """A list, and the lists in it, with integers made floats."""
    return [
        _with_floats(item)
        if isinstance(item, list)
        else float(item)
        if isinstance(item, int) and not isinstance(item, bool)
        else item
        for item in values
    ]


def _read_file(recipe: Path) -> dict[str, Any]:
    try:
        content = load_yaml(recipe.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe} is not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{recipe} is not a recipe, which is a YAML file: of images, name the folder.") from error
    if not content:
        raise ValueError(f"{recipe} is empty: a recipe holds `key: value` lines, see `lejepa recipes show NAME`.")
    if not isinstance(content, dict):
        raise ValueError(f"{recipe} must hold `key: value` lines, got a {type(content).__name__}.")
    return content
