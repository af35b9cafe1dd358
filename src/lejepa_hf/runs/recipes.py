"""Recipe YAML + command line -> three dataclasses, with every key and type checked before anything starts."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator

from ..configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from ..data.view_settings import ViewSettings
from ..training_args import LeJEPATrainingArguments

_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "other")


@dataclass
class ModelArguments:
    """
    What network is trained, and by which objective.

    Args:
        backbone_config (`dict`, *optional*): See [`LeJEPAConfig`]; needs `model_type`.
        pretrained_backbone (`str`, *optional*): Hub id or folder whose weights the backbone starts from.
        continue_from (`str`, *optional*): Run folder or checkpoint whose backbone and projector go on, with a new
            optimizer; or a run that was pushed to the Hub, `user/name` or `user/name@revision`.
        license (`str`, *optional*): Of the trained weights, as the Hub calls it (`apache-2.0`), for their card.
        pooling, projector_dims, projector_norm, token_drop_rate, token_drop_views, sigreg_weight, sigreg_views,
            statistic, num_slices, num_knots, t_max: See [`LeJEPAConfig`].
    """

    backbone_config: dict | None = None
    pretrained_backbone: str | None = None
    continue_from: str | None = None
    license: str | None = None
    pooling: str = LeJEPAConfig.pooling
    projector_dims: list[int] = field(
        default_factory=LeJEPAConfig.__dataclass_fields__["projector_dims"].default_factory
    )
    projector_norm: str = LeJEPAConfig.projector_norm
    token_drop_rate: float = LeJEPAConfig.token_drop_rate
    token_drop_views: str = LeJEPAConfig.token_drop_views
    sigreg_weight: float = LeJEPAConfig.sigreg_weight
    sigreg_views: str = LeJEPAConfig.sigreg_views
    statistic: str = LeJEPAConfig.statistic
    num_slices: int = LeJEPAConfig.num_slices
    num_knots: int = LeJEPAConfig.num_knots
    t_max: float = LeJEPAConfig.t_max

    def __post_init__(self):
        if self.continue_from is not None and self.pretrained_backbone is not None:
            raise ValueError(
                "Set either `continue_from` (backbone and projector of an earlier run) or `pretrained_backbone` (a "
                "backbone), got both."
            )
        if self.continue_from is None and (self.backbone_config is None) == (self.pretrained_backbone is None):
            raise ValueError(
                "Set either `backbone_config` (fresh weights) or `pretrained_backbone` (a warm start), got "
                f"{'neither' if self.backbone_config is None else 'both'}."
            )
        _check_license(self.license)
        if self.backbone_config is not None:
            _check_backbone_keys(self.backbone_config)

    def config_kwargs(self) -> dict[str, Any]:
        """The fields that belong to [`LeJEPAConfig`], without the backbone."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("backbone_config", "pretrained_backbone", "continue_from", "license")
        }


def _check_license(given: str | None) -> None:
    """The Hub's names look like this one; which of them it knows it says itself, when the card is pushed."""
    if given is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", given):
        return
    close = difflib.get_close_matches(given.lower().replace(" ", "-"), _LICENSES, n=1, cutoff=0.4)
    hint = f"Did you mean {close[0]!r}?" if close else f"Some of them: {', '.join(_LICENSES)}."
    raise ValueError(f"`license` {given!r} is no name that the Hub has for a licence. {hint}")


def _check_backbone_keys(given: dict[str, Any]) -> None:
    """Transformers keeps an unknown key of a config without a word, and the network is another one than meant."""
    config_class = type(resolve_backbone_config(given))
    known = {item.name for item in fields(config_class)} | set(config_class.attribute_map)
    known |= {"model_type", "attn_implementation", "pretrained_cfg", "num_classes"}
    for key in given:
        _check_key(key, f"`backbone_config` of model type {given['model_type']}", known)


@dataclass
class DataArguments(ViewSettings):
    """
    Which images, and how views of them look: [`ViewSettings`] and the following.

    Args:
        dataset (`str`): `"digits"`, a Hub dataset id, a folder of images, or Parquet or WebDataset tar files as a
            path, a glob or a url. See [`~data.sources.load_source`].
        dataset_config (`str`, *optional*): Configuration of a Hub dataset.
        dataset_revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        data_files (`str` or `list[str]`, *optional*): Which files of a Hub dataset, paths or globs.
        mixture (`list[dict]`, *optional*): Several sources to train on, drawn from with their `weight`; the other keys
            of an entry are `dataset`, `config`, `split`, `revision`, `data_files`, `image_column`. The source of the
            keys above then serves the evaluation only, and may be missing.
        train_split (`str`): Split the encoder is trained on; labels are not used.
        eval_split (`str`, *optional*): Held-out split with labels; without it there is no evaluation, neither
            afterwards nor, by `eval_strategy`, while training: there every tenth of the run by default, or at each
            checkpoint with `load_best_model_at_end`.
        streaming (`bool`): Read while training instead of downloading first.
        image_column (`str`, *optional*): Found by its type if missing.
        label_column (`str`, *optional*): Found by its type if missing; for the evaluation only.
        eval_crop_ratio (`float`): Share of the resized side that the evaluation's centre crop keeps, in (0, 1].
        eval_protocols (`list[str]`): Of `linear`, `knn`, `few-shot`, `logistic`, `retrieval`.
    """

    dataset: str = ""
    dataset_config: str | None = None
    dataset_revision: str | None = None
    data_files: str | list[str] | None = None
    mixture: list[dict] | None = None
    train_split: str = "train"
    eval_split: str | None = None
    streaming: bool = False
    image_column: str | None = None
    label_column: str | None = None
    eval_crop_ratio: float = 0.875
    eval_protocols: list[str] = field(default_factory=lambda: ["linear", "knn", "few-shot"])

    def __post_init__(self):
        super().__post_init__()
        if not self.dataset and (self.mixture is None or self.eval_split is not None):
            use = "" if self.mixture is None else " for `eval_split`"
            raise ValueError(
                f"`dataset` is missing{use}: 'digits', a Hub dataset id, a folder of images, Parquet or tar files."
            )
        if not 0 < self.eval_crop_ratio <= 1:
            raise ValueError(f"`eval_crop_ratio` must be in (0, 1], got {self.eval_crop_ratio}.")


@dataclass
class Recipe:
    """
    A parsed recipe.

    Args:
        model ([`ModelArguments`]): The network and its objective.
        data ([`DataArguments`]): Images and views.
        training ([`LeJEPATrainingArguments`]): Optimisation, logs, checkpoints.
        given (`dict[str, Any]`): The keys that the file or the command line set.
    """

    model: ModelArguments
    data: DataArguments
    training: LeJEPATrainingArguments
    given: dict[str, Any]

    def resolved(self) -> dict[str, Any]:
        """
        What repeats this run: every model and data key, the training keys that were given, and those whose default is
        the method's. Never a token, nor where to resume from.
        """
        training = {*self.given, *LeJEPATrainingArguments.__annotations__, "seed"} - {"resume"}
        values = {**vars(self.model), **vars(self.data)}
        for item in fields(LeJEPATrainingArguments):
            if item.name in training and "token" not in item.name:
                value = getattr(self.training, item.name)
                values[item.name] = getattr(value, "value", value)
        return values


SECTIONS = (ModelArguments, DataArguments, LeJEPATrainingArguments)


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


def load_yaml(text: str) -> Any:
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


def _check_key(key: str, where: str, keys: Iterable[str]) -> None:
    if key not in keys:
        close = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ValueError(f"`{key}` in {where} is not a known key.{hint}")


def _check_type(key: str, value: Any, expected: Any, where: str) -> Any:
    """The value, integers made floats where floats are wanted."""
    kinds = (
        get_args(expected) if get_origin(expected) is not None and get_origin(expected) is not list else (expected,)
    )
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        value = float(value)
    if list[float] in (expected, *kinds) and isinstance(value, list):
        value = [float(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]
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


def _parse_command_line(arguments: list[str], hints: dict[str, Any], keys: dict[str, type]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--list a b c`, and `--flag` alone for true or, for `--resume`, `auto`."""
    values: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        token = arguments[position]
        if not token.startswith("--"):
            raise ValueError(f"{token!r} on the command line does not belong to a `--key`.")
        key, equals, inline = token[2:].partition("=")
        key = key.replace("-", "_")
        _check_key(key, "the command line", keys)
        position += 1
        given = [inline] if equals else []
        while not equals and position < len(arguments) and not re.match(r"--[a-zA-Z]", arguments[position]):
            given.append(arguments[position])
            position += 1
        values[key] = _command_line_value(key, given, hints[key])
    return values


def _command_line_value(key: str, given: list[str], expected: Any) -> Any:
    if not given:
        return "auto" if key == "resume" else True
    is_list = get_origin(expected) is list
    kinds = (expected, *get_args(expected))
    if not is_list and str in kinds and dict not in kinds and len(given) == 1:
        return None if given[0] == "null" and type(None) in kinds else given[0]
    parsed = [load_yaml(text) for text in given]
    return parsed if len(parsed) > 1 or (is_list and not isinstance(parsed[0], list)) else parsed[0]


def _set_evaluation(values: dict[str, Any]) -> None:
    """When held-out images are looked at while training, unless the recipe says so."""
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
        # The best model is one that was saved: each checkpoint is judged, and nothing between.
        at_checkpoints = values.get("load_best_model_at_end") and values.get("save_strategy", "steps") == "steps"
        values["eval_steps"] = values.get("save_steps", 500) if at_checkpoints else 0.1


def parse_recipe(recipe: str | Path, arguments: list[str] | None = None) -> Recipe:
    """
    Read a recipe; the command line wins.

    Args:
        recipe (`str` or `Path`): YAML file of flat keys.
        arguments (`list[str]`, *optional*): `--key value` pairs.

    Returns:
        [`Recipe`]. Without `output_dir` the run goes to `runs/<folder of the recipe>-<name of the recipe>`.

    Raises:
        ValueError: If the file is missing, or a key is unknown, of the wrong type or out of range; the message names
            the key, the value and the nearest known key.
    """
    recipe = Path(recipe)
    if not recipe.is_file():
        found = sorted(str(path) for path in Path("recipes").rglob("*.yaml") if "accelerate" not in path.parts)
        close = difflib.get_close_matches(str(recipe), found, n=3, cutoff=0.3) or found
        raise ValueError(f"No recipe {str(recipe)!r}. Recipes here: {', '.join(close) or 'none'}.")
    try:
        content = load_yaml(recipe.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{recipe} must hold `key: value` lines, got a {type(content).__name__}.")
    keys = known_keys()
    hints = {key: hint for section in SECTIONS for key, hint in get_type_hints(section).items() if key in keys}
    for key in content:
        _check_key(str(key), str(recipe), keys)
    overrides = _parse_command_line(arguments or [], hints, keys)
    values = {key: _check_type(key, value, hints[key], str(recipe)) for key, value in content.items()}
    values |= {key: _check_type(key, value, hints[key], "the command line") for key, value in overrides.items()}
    if "pretrained_backbone" in overrides and "backbone_config" not in overrides:
        values.pop("backbone_config", None)  # a warm start given on the command line replaces the recipe's network
    for key, other in (("pretrained_backbone", "continue_from"), ("continue_from", "pretrained_backbone")):
        if key in overrides and other not in overrides:
            values.pop(other, None)  # and either of them the recipe's start
    _set_evaluation(values)
    values.setdefault("output_dir", f"runs/{recipe.resolve().parent.name}-{recipe.stem}")
    parts = (section(**{key: value for key, value in values.items() if keys[key] is section}) for section in SECTIONS)
    return Recipe(*parts, given=values)
