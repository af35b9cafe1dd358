"""Recipe YAML and command line -> a [`Recipe`], with every key and type checked before anything starts."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from ..training_args import LeJEPATrainingArguments
from .arguments import DataArguments, ModelArguments, Recipe
from .recipe_text import find_recipe, read_recipe

SECTIONS = (ModelArguments, DataArguments, LeJEPATrainingArguments)


def known_keys() -> dict[str, type]:
    """Every key of a recipe and the dataclass it belongs to."""
    keys: dict[str, type] = {}
    for section in SECTIONS:
        for item in fields(section):
            if item.init:
                assert item.name not in keys, f"{item.name} stands in two dataclasses"
                keys[item.name] = section
    return keys


def key_types() -> dict[str, Any]:
    """Every key of a recipe and its type."""
    keys = known_keys()
    return {key: hint for section in SECTIONS for key, hint in get_type_hints(section).items() if key in keys}


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


def _check_class_balance(values: dict[str, Any]) -> None:
    for key in ("streaming", "mixture"):
        if values.get("class_balanced") and values.get(key):
            raise ValueError(
                f"`class_balanced` needs the class of each training image before it is read, and `{key}` is set: "
                "leave one of them out."
            )


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
    file, keys = find_recipe(recipe), known_keys()
    values, overrides = read_recipe(file, arguments or [], key_types())
    values |= overrides
    _drop_replaced(values, overrides)
    _set_evaluation(values)
    _check_class_balance(values)
    values.setdefault("output_dir", f"runs/{file.resolve().parent.name}-{file.stem}")

    def of(section: type) -> dict[str, Any]:
        return {key: value for key, value in values.items() if keys[key] is section}

    return Recipe(
        ModelArguments(**of(ModelArguments)),
        DataArguments(**of(DataArguments)),
        LeJEPATrainingArguments(**of(LeJEPATrainingArguments)),
        frozenset(values),
    )
