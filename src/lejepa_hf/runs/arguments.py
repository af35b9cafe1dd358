"""The three groups of arguments that make a recipe, each with its checks."""

import difflib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from ..data.held_out_share import share_of
from ..data.readers.reader import Cut
from ..data.view_settings import ViewSettings
from ..system.number_range import NumberRange
from ..system.run_folder import plain
from ..training_args import LeJEPATrainingArguments
from .objective_ranges import check_objective
from .recipe_text import check_key

_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "other")
_CROP_RATIO = NumberRange(0.1, 1)  # below it images are enlarged tenfold, to be cut again
_NOT_OF_THE_CONFIG = ("backbone_config", "pretrained_backbone", "continue_from", "license")


@dataclass(frozen=True)
class ModelArguments:
    """
    The network and its objective.

    Args:
        backbone_config (`dict`, *optional*): Config of the backbone as in transformers, with its `model_type`, as
            `{model_type: vit, hidden_size: 384}`. See [`LeJEPAConfig`].
        pretrained_backbone (`str`, *optional*): Hub id or folder whose weights the backbone starts from.
        continue_from (`str`, *optional*): Run folder or checkpoint whose backbone and projector are trained further,
            with a new optimizer; or a run that was pushed to the Hub, `user/name` or `user/name@revision`.
        license (`str`, *optional*): Licence of the trained weights, in the Hub's spelling (`apache-2.0`).
        pooling, projector_dims, projector_norm, token_drop_rate, token_drop_views, drop_path_rate, sigreg_weight,
            sigreg_views, statistic, num_slices, num_knots, t_max: See [`LeJEPAConfig`].
    """

    backbone_config: dict[str, Any] | None = None
    pretrained_backbone: str | None = None
    continue_from: str | None = None
    license: str | None = None
    pooling: str = LeJEPAConfig.pooling
    projector_dims: list[int] = field(default_factory=lambda: list(LeJEPAConfig().projector_dims))
    projector_norm: str = LeJEPAConfig.projector_norm
    token_drop_rate: float = LeJEPAConfig.token_drop_rate
    token_drop_views: str = LeJEPAConfig.token_drop_views
    drop_path_rate: float = LeJEPAConfig.drop_path_rate
    sigreg_weight: float = LeJEPAConfig.sigreg_weight
    sigreg_views: str = LeJEPAConfig.sigreg_views
    statistic: str = LeJEPAConfig.statistic
    num_slices: int = LeJEPAConfig.num_slices
    num_knots: int = LeJEPAConfig.num_knots
    t_max: float = LeJEPAConfig.t_max

    def __post_init__(self) -> None:
        if self.continue_from is not None and self.pretrained_backbone is not None:
            raise ValueError(
                "Set either `continue_from` (an earlier run) or `pretrained_backbone` (a backbone alone), got both."
            )
        if self.continue_from is None and (self.backbone_config is None) == (self.pretrained_backbone is None):
            raise ValueError(
                "Set either `backbone_config` (fresh weights) or `pretrained_backbone` (a warm start), got "
                f"{'neither' if self.backbone_config is None else 'both'}."
            )
        _check_license(self.license)
        check_objective(vars(self))
        if self.backbone_config is not None:
            _check_backbone_keys(self.backbone_config)

    def config_kwargs(self) -> dict[str, Any]:
        """The fields that belong to [`LeJEPAConfig`], without the backbone."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_OF_THE_CONFIG}


def _check_license(given: str | None) -> None:
    """Check the form only: which names the Hub really knows is its own matter when the card is pushed."""
    if given is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", given):
        return
    close = difflib.get_close_matches(given.lower().replace(" ", "-"), _LICENSES, n=1, cutoff=0.4)
    hint = f"Did you mean {close[0]!r}?" if close else f"Some of them: {', '.join(_LICENSES)}."
    raise ValueError(f"`license` {given!r} is not a name of a licence on the Hub. {hint}")


def _check_backbone_keys(given: dict[str, Any]) -> None:
    """Transformers silently accepts unknown keys of a config, and the network would differ from what was meant."""
    config_class = type(resolve_backbone_config(given))
    known = {item.name for item in fields(config_class)} | set(config_class.attribute_map)
    known |= {"model_type", "attn_implementation", "pretrained_cfg", "num_classes"}
    for key in given:
        check_key(key, f"`backbone_config` of model type {given['model_type']}", known)


@dataclass(frozen=True)
class DataArguments(ViewSettings):
    """
    Which images to use, and how views of them are made: the fields of [`ViewSettings`] and the following.

    Args:
        dataset (`str`): `"digits"`, a Hub dataset id, a folder or glob of images, a table, a container of arrays, or
            Parquet or WebDataset tar files as a path, a glob or a url. See [`~data.sources.load_source`].
        dataset_config (`str`, *optional*): Configuration of a Hub dataset.
        dataset_revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        data_files (`str` or `list[str]`, *optional*): Files of a Hub dataset, or of the `dataset` `csv`, `json`,
            `parquet` or `webdataset`, as paths or globs.
        mixture (`list[dict]`, *optional*): Several sources to train on, drawn from with their `weight`; the other keys
            of an entry are `dataset`, `config`, `split`, `revision`, `data_files`, `image_column`. The source of the
            keys above then serves the evaluation only, and may be missing.
        train_split (`str`): Split that the encoder is trained on; its labels are not used, except by
            `class_balanced`.
        eval_split (`str`, *optional*): Held-out split, or a share of `train_split` such as `10%` that is held out and
            never trained on, by a hash of each row and the same share of each class. The encoder is evaluated on it
            after training and, with `eval_strategy`, during training. That is every tenth of the run by default, or
            each checkpoint with `load_best_model_at_end`. Labels are not needed, and add accuracies. Without it
            nothing is evaluated.
        group_column (`str`, *optional*): Column of groups such as patients or plots, none of which may be on both
            sides of `eval_split`. For a folder of images also a level of its folders: `1` for the first one below
            `dataset`, `-1` for the one right above an image.
        streaming (`bool`): Read images during training instead of downloading them first.
        image_column (`str`, *optional*): Column of the images; found by its type if missing.
        label_column (`str` or `list[str]`, *optional*): Column of the labels, for the evaluation and `class_balanced`
            only; found by its type if missing. Several columns of 0 and 1 are classes that an image may have together.
        label_kind (`str`, *optional*): `number` for integers that are no classes, `class` for integers or floats that
            are names of classes, `multi-label` for texts in which `|` separates classes. Follows from the type of
            `label_column` if missing.
        view_column (`str`, *optional*): Column with a list of images per row, instead of `image_column`: slabs of a
            scan, tiles of a slide, several photographs of one object. Each view is cut from one of them, and
            evaluations use the first one.
        pages (`str`): What the pages of a TIFF in a folder are, `channels` of one image or `images`.
        slice_axis (`int`, *optional*): Axis of volumes along which each slice is an image, 0, 1 or 2; 2 if missing.
        window_size (`int`, *optional*): Side in pixels of the windows into which each file of a folder is cut, such as
            slides and satellite images; whole images if missing. What is left at the right and lower edge is not
            used. `max_image_pixels` is then the limit of a window where only its part of the file is read.
        eval_crop_ratio (`float`): Share of the resized side that the evaluation's centre crop keeps, in [0.1, 1].
        eval_protocols (`list[str]`): Any of `linear`, `knn`, `few-shot`, `logistic`, `retrieval`, `ridge`. In place of
            the default ones, which need classes, multi-label has `linear` and numbers have `ridge`.
    """

    dataset: str = ""
    dataset_config: str | None = None
    dataset_revision: str | None = None
    data_files: str | list[str] | None = None
    mixture: list[dict[str, Any]] | None = None
    train_split: str = "train"
    eval_split: str | None = None
    group_column: str | None = None
    streaming: bool = False
    image_column: str | None = None
    label_column: str | list[str] | None = None
    label_kind: Literal["class", "multi-label", "number"] | None = None
    view_column: str | None = None
    pages: str = "channels"
    slice_axis: int | None = None
    window_size: int | None = None
    eval_crop_ratio: float = 0.875
    eval_protocols: list[str] = field(default_factory=lambda: ["linear", "knn", "few-shot"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset and (self.mixture is None or self.eval_split is not None):
            use = "" if self.mixture is None else " for `eval_split`"
            raise ValueError(
                f"`dataset` is missing{use}: 'digits', a Hub dataset id, a folder of images, Parquet or tar files."
            )
        Cut(**self.cut)  # refuses values out of range
        share = share_of(self.eval_split)
        if share is not None and self.mixture is not None:
            raise ValueError(
                f"`eval_split` {self.eval_split!r} is a share of `dataset`, but with `mixture` training reads other "
                "images: name a split of `dataset` that no entry of `mixture` reads."
            )
        if self.group_column is not None and self.eval_split is None:
            raise ValueError(
                f"`group_column` {self.group_column!r} has no meaning without held-out images: set `eval_split`, to "
                "'10%' for example, or leave it out."
            )
        _CROP_RATIO.check("eval_crop_ratio", self.eval_crop_ratio)
        for name in ("image_column", "mixture"):
            if self.view_column is not None and vars(self)[name] is not None:
                raise ValueError(
                    f"`view_column` {self.view_column!r} holds the images, but `{name}` is {vars(self)[name]!r}: set "
                    "one of them. Evaluations use the first image of each list."
                )

    @property
    def cut(self) -> dict[str, Any]:
        """The arguments of [`~data.readers.reader.Cut`]."""
        return {name: vars(self)[name] for name in ("pages", "slice_axis", "window_size")}


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Nothing changes a recipe: [`~runs.resolving.resolve`] returns a new one."""

    model: ModelArguments
    data: DataArguments
    training: LeJEPATrainingArguments
    given: frozenset[str]  # names of the keys that the file or the command line set

    @property
    def folder(self) -> Path:
        """The run folder."""
        assert self.training.output_dir is not None, "the Trainer's arguments choose one where it is missing"
        return Path(self.training.output_dir)

    def arguments(self) -> dict[str, Any]:
        """Every argument of the run, transformers' defaults included, as plain values. Never a token."""
        names = [item.name for item in fields(self.training) if item.init and not item.name.endswith("_token")]
        training = {name: plain(vars(self.training)[name]) for name in names}
        return {**vars(self.model), **vars(self.data), **training}

    def resolved(self) -> dict[str, Any]:
        """
        The keys that repeat this run: all model and data keys, the training keys that were given, and those whose
        default is the method's. Never a token, nor the checkpoint to resume from.
        """
        of_the_method = {*LeJEPATrainingArguments.__annotations__, "seed"}
        repeated = {*vars(self.model), *vars(self.data), *of_the_method, *self.given} - {"resume"}
        return {name: value for name, value in self.arguments().items() if name in repeated}
