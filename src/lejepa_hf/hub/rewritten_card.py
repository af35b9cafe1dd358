"""The card of an encoder of a run, written anew once the run knows more."""

import filecmp
import re
from pathlib import Path

import yaml

from .model_card import write_model_card


def remake_model_card(run: str | Path, encoder: str | Path | None = None) -> Path:
    """
    Write the card anew, from what the folder of a run holds now.

    Args:
        run (`str` or `Path`): Run folder.
        encoder (`str` or `Path`, *optional*): An exported encoder of this run; if missing, `encoder/` in its folder.
            The run's results go into the card if these are the weights it ended with, or their average.

    Returns:
        `Path`: The card.

    Raises:
        ValueError: If there is no encoder, or nothing tells which weights of the run it has.
    """
    run = Path(run)
    folder = run / "encoder" if encoder is None else Path(encoder)
    if not (folder / "config.json").is_file() or not _weights(folder):
        raise ValueError(f"{str(folder)!r} holds no encoder: write it with `lejepa export {run}`.")
    if '"lejepa"' in (folder / "config.json").read_text(encoding="utf-8"):
        raise ValueError(f"{str(folder)!r} holds a model in training: give an encoder that `lejepa export` wrote.")
    recipe = run / "recipe.yaml"
    decay = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("ema_decay") if recipe.is_file() else None
    if _same_weights(folder, run / "encoder"):
        return write_model_card(folder, run)
    if decay and _same_weights(folder, run / "encoder_averaged"):
        return write_model_card(folder, run, ema_decay=decay)
    of_checkpoint = re.fullmatch(r"encoder(_averaged)?-\d+", folder.name)
    if of_checkpoint and folder.resolve().parent == run.resolve() and (decay or not of_checkpoint[1]):
        return write_model_card(folder, run, is_final=False, ema_decay=decay if of_checkpoint[1] else None)
    raise ValueError(
        f"The weights in {str(folder)!r} are neither those in encoder/ or encoder_averaged/ of {str(run)!r} nor of a "
        "checkpoint exported there: `lejepa export` writes them with a card of their own."
    )


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _same_weights(one: Path, other: Path) -> bool:
    names = [path.name for path in _weights(one)]
    same_names = bool(names) and names == [path.name for path in _weights(other)]
    return same_names and all(_same_file(one / name, other / name) for name in names)


def _same_file(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
