"""Which images a run was trained on, as its card may state it: public names, addresses, licences."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, try_to_load_from_cache

from ..data.dataset_files import kind_of_files

_DIGITS = "digits"
_DIGITS_SOURCE = (
    "scikit-learn's copy of the [Optical Recognition of Handwritten Digits]"
    "(https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits) of UCI"
)


@dataclass(frozen=True)
class TrainingData:
    """
    One source of images: its description in Markdown, a sentence about the licence, the dataset's id if it is on the
    Hub, and its share of the images of a mixture, in [0, 1].
    """

    text: str
    licence: str
    on_hub: str | None = None
    weight: float | None = None


def public_name(name: str | None, local_paths: Collection[str] | None = None) -> str | None:
    """
    The name of a dataset or model if it may be published: a Hub id or `digits`. None for a path of this machine, and
    for an address, which may hold a key. `local_paths` are the names that were paths where the run was started; if
    None, names of folders here count as such.
    """
    if not name or name.startswith((".", "/", "~")) or kind_of_files(name) or name.count("/") > 1:
        return None
    is_local = name in local_paths if local_paths is not None else Path(name).is_dir()
    return None if is_local else name


def has_local_images(recipe: dict[str, Any], local_paths: Collection[str] | None = None) -> bool:
    """Whether images of a resolved recipe are neither on the Hub nor those of `digits`, or nothing says so."""
    names = [entry.get("dataset") for entry in recipe.get("mixture") or []] + [recipe.get("dataset")]
    public = [public_name(name, local_paths) for name in names if name]
    return not public or any(name is None or not (name == _DIGITS or "/" in name) for name in public)


def training_data(recipe: dict[str, Any], local_paths: Collection[str] | None = None) -> list[TrainingData]:
    """
    The sources a resolved recipe trains on, none for an empty one; `local_paths` as in [`public_name`]. Of a mixture
    the entries are described, not the dataset of the evaluation.
    """
    mixture = recipe.get("mixture")
    if mixture:
        total = sum(entry.get("weight", 1.0) for entry in mixture)
        return [_describe({"split": "train", **it}, local_paths, it.get("weight", 1.0) / total) for it in mixture]
    keys = {"dataset": "dataset", "config": "dataset_config", "split": "train_split", "revision": "dataset_revision"}
    source = {key: recipe.get(of_recipe) for key, of_recipe in keys.items()}
    return [_describe(source, local_paths)] if source["dataset"] else []


def _describe(
    source: dict[str, Any], local_paths: Collection[str] | None, weight: float | None = None
) -> TrainingData:
    public = public_name(source["dataset"], local_paths)
    config, split, revision = map(source.get, ("config", "split", "revision"))
    details = f", split `{split}`" if split else ""
    if public is None or not (public == _DIGITS or "/" in public):
        return TrainingData(f"local images{details}", "Their licence is not stated here.", None, weight)
    if public == _DIGITS:
        return TrainingData(_DIGITS_SOURCE + details, "Licence: CC BY 4.0.", None, weight)
    details = (f", configuration `{config}`" if config else "") + details
    details += f", revision `{revision}`" if revision else ""
    text = f"[{public}](https://huggingface.co/datasets/{public}){details}"
    return TrainingData(text, _licence_of(public, revision), public, weight)


def _licence_of(dataset: str, revision: str | None) -> str:
    """The licence on the dataset's page, which `datasets` has left in the cache; nothing is downloaded."""
    unknown = "Its licence is not stated here: see its page."
    try:
        page = try_to_load_from_cache(dataset, "README.md", revision=revision, repo_type="dataset")
        if not isinstance(page, str):
            return unknown
        data = DatasetCard.load(page).data
    except (ValueError, yaml.YAMLError):  # not an id after all, or a page whose head cannot be parsed
        return unknown
    given = data.get("license_name") or data.get("license")
    given = ", ".join(map(str, given)) if isinstance(given, list) else given
    link = data.get("license_link")
    if not given:
        return "Its page on the Hub states no licence."
    return f"Licence, by its page on the Hub: {given}{f' ({link})' if str(link).startswith('https://') else ''}."
