"""Which images a run was trained on, as far as its card may tell: public names, addresses, licences."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import DatasetCard, try_to_load_from_cache

_DIGITS = "digits"
_DIGITS_SOURCE = (
    "scikit-learn's copy of the [Optical Recognition of Handwritten Digits]"
    "(https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits) of UCI"
)


@dataclass(frozen=True)
class TrainingData:
    """
    One source of images.

    Args:
        text (`str`): What it is, in Markdown.
        licence (`str`): A sentence.
        on_hub (`str`, *optional*): Its id, if it is a dataset of the Hub.
        weight (`float`, *optional*): Its share in a mixture, in [0, 1].
    """

    text: str
    licence: str
    on_hub: str | None = None
    weight: float | None = None


def public_name(name: str | None) -> str | None:
    """A Hub id or `digits`; None for anything that is a path of this machine or an address, which may hold a key."""
    if not name or name.startswith((".", "/", "~")) or name.endswith((".parquet", ".tar")) or name.count("/") > 1:
        return None
    return None if Path(name).is_dir() else name


def training_data(recipe: dict) -> list[TrainingData]:
    """
    The sources a recipe trains on.

    Args:
        recipe (`dict`): Resolved; of a mixture the entries count, not what the evaluation is done on.

    Returns:
        `list[TrainingData]`: Empty for an empty recipe.
    """
    mixture = recipe.get("mixture")
    if not mixture:
        keys = ("dataset_config", "train_split", "dataset_revision")
        return [_describe(recipe["dataset"], *map(recipe.get, keys))] if recipe.get("dataset") else []
    total = sum(entry.get("weight", 1.0) for entry in mixture)
    return [
        _describe(
            entry["dataset"], entry.get("config"), entry.get("split", "train"), entry.get("revision"),
            entry.get("weight", 1.0) / total,
        )
        for entry in mixture
    ]  # fmt: skip


def _describe(name: str, config: str | None, split: str | None, revision: str | None, weight: float | None = None):
    public = public_name(name)
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
    """By the dataset's page, which `datasets` left in the cache when it opened the images; nothing is downloaded."""
    unknown = "Its licence is not stated here: see its page."
    try:
        page = try_to_load_from_cache(dataset, "README.md", revision=revision, repo_type="dataset")
        if not isinstance(page, str):
            return unknown
        data = DatasetCard.load(page).data
    except (ValueError, yaml.YAMLError):  # no id after all, or a page whose head cannot be read
        return unknown
    given = data.get("license_name") or data.get("license")
    given = ", ".join(map(str, given)) if isinstance(given, list) else given
    link = data.get("license_link")
    if not given:
        return "Its page on the Hub states no licence."
    return f"Licence, by its page on the Hub: {given}{f' ({link})' if str(link).startswith('https://') else ''}."
