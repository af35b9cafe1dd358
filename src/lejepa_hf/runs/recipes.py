"""Recipe YAML and command line -> a [`Recipe`], with every key and type checked before anything starts."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator

from ..system.installed_package import find_packaged
from ..training_args import LeJEPATrainingArguments
from .arguments import DataArguments, ModelArguments, Recipe, check_key

SECTIONS = (ModelArguments, DataArguments, LeJEPATrainingArguments)
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


def known_keys() -> dict[str, type]:
    """Every key of a recipe and the dataclass it belongs to."""
    keys: dict[str, type] = {}
    for section in SECTIONS:
        for item in fields(section):
            if item.init:
                assert item.name not in keys, f"{item.name} stands in two dataclasses"
                keys[item.name] = section
    return keys


def _check_type(key: str, value: object, expected: object, where: str) -> object:
    """The value, with integers made floats where the type is a float."""
    kinds = get_args(expected) if get_origin(expected) not in (None, list) else (expected,)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        value = float(value)
    if list[float] in (expected, *kinds) and isinstance(value, list):
        value = [float(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]
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


def _type_hints() -> dict[str, Any]:
    keys = known_keys()
    return {key: hint for section in SECTIONS for key, hint in get_type_hints(section).items() if key in keys}


def parse_command_line(arguments: list[str]) -> dict[str, Any]:
    """
    The keys of a recipe in `--key value`, `--key=value`, `--list a b c`, and `--flag` alone for true or, for
    `--resume`, `auto`. ValueError for an unknown key or a value of another type.
    """
    hints, values = _type_hints(), dict[str, Any]()
    position = 0
    while position < len(arguments):
        token = arguments[position]
        if not token.startswith("--"):
            raise ValueError(f"{token!r} on the command line does not belong to a `--key`.")
        key, equals, inline = token[2:].partition("=")
        key = key.replace("-", "_")
        key = _ALIASES.get(key, key)
        check_key(key, "the command line", hints)
        position += 1
        given = [inline] if equals else []
        while not equals and position < len(arguments) and not re.match(r"--[a-zA-Z]", arguments[position]):
            given.append(arguments[position])
            position += 1
        value = _command_line_value(key, given, hints[key])
        values[key] = _check_type(key, value, hints[key], "the command line")
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


def _set_evaluation(values: dict[str, Any]) -> None:
    """Choose when held-out images are evaluated during training, unless the recipe says so."""
    if values.get("eval_split") is None:
        for key, off in (("eval_strategy", "no"), ("load_best_model_at_end", False)):
            if values.get(key, off) != off:
                raise ValueError(f"`{key}` {values[key]} needs held-out images: name them with `eval_split`.")
        return
    if "top1" in str(values.get("metric_for_best_model")):
        raise ValueError(
            f"`metric_for_best_model` {values['metric_for_best_model']!r} would choose the checkpoint by labels of "
            "the images that measure it at the end: leave it out, `eval_loss` needs no labels."
        )
    values.setdefault("eval_strategy", "steps")
    if values["eval_strategy"] == "steps" and values.get("eval_steps") is None:
        # The best model is one that was saved: each checkpoint is evaluated, and nothing in between.
        at_checkpoints = values.get("load_best_model_at_end") and values.get("save_strategy", "steps") == "steps"
        values["eval_steps"] = values.get("save_steps", 500) if at_checkpoints else 0.1


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


def _drop_replaced(values: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Drop the recipe's initial weights if the command line names others."""
    if "pretrained_backbone" in overrides and "backbone_config" not in overrides:
        values.pop("backbone_config", None)
    for key, other in (("pretrained_backbone", "continue_from"), ("continue_from", "pretrained_backbone")):
        if key in overrides and other not in overrides:
            values.pop(other, None)


def parse_recipe(recipe: str | Path, arguments: list[str] | None = None) -> Recipe:
    """
    Read a recipe; the command line wins.

    Args:
        recipe (`str` or `Path`): YAML file of flat keys, or, if there is no such file, the name of a recipe that
            comes with this package, such as `digits/resnet_tiny`; `lejepa recipes` lists them.
        arguments (`list[str]`, *optional*): `--key value` pairs.

    Returns:
        [`Recipe`]. Without `output_dir` the run folder is `runs/<folder of the recipe>-<name of the recipe>`.

    Raises:
        ValueError: If there is no such recipe, or a key is unknown, of the wrong type or out of range; the message
            names the key, the value and the nearest known key.
    """
    recipe = Path(recipe) if Path(recipe).is_file() else find_packaged(recipe)
    content = _read_file(recipe)
    keys, hints = known_keys(), _type_hints()
    for key in content:
        check_key(str(key), str(recipe), keys)
    overrides = parse_command_line(arguments or [])
    values = {key: _check_type(key, value, hints[key], str(recipe)) for key, value in content.items()}
    values |= overrides
    _drop_replaced(values, overrides)
    _set_evaluation(values)
    values.setdefault("output_dir", f"runs/{recipe.resolve().parent.name}-{recipe.stem}")

    def of(section: type) -> dict[str, Any]:
        return {key: value for key, value in values.items() if keys[key] is section}

    return Recipe(
        ModelArguments(**of(ModelArguments)),
        DataArguments(**of(DataArguments)),
        LeJEPATrainingArguments(**of(LeJEPATrainingArguments)),
        frozenset(values),
    )
