"""compare_encoders: several encoders, the same protocols and images, and a record of the conditions."""

import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..data.shared_images import SharedImages
from ..data.sources import ImageSource
from ..system.distributed import is_first_rank, world_size
from ..system.durable_files import write_text
from ..system.error_text import reason_of
from ..system.installed_package import package_versions
from .classification import is_unbalanced
from .encoder_loading import load_encoder
from .evaluate_encoder import checked_protocols, measure
from .feature_extractor import FeatureExtractor
from .figures import Figures
from .labelled_sources import count_shared, labels_of
from .paired_differences import differences_to_first
from .protocols.protocol import Protocol
from .protocols.served_labels import usual_protocols


def compare_encoders(
    encoders: Sequence[str | Path],
    splits: tuple[ImageSource, ImageSource],
    protocols: Sequence[str | Protocol] | None = None,
    out: str | Path | None = None,
    **settings: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """
    Evaluate encoders one after the other. All of them are loaded and tried before the first evaluation.

    Args:
        encoders (`Sequence[str | Path]`): Folders or Hub ids.
        splits (pair of [`ImageSource`]): Sources from [`~evaluation.labelled_sources.labelled_sources`].
        protocols (`Sequence[str | Protocol]`, *optional*): As in `evaluate_encoder`.
        out (`str` or `Path`, *optional*): JSON file for the record, checked first and rewritten after each protocol.
        **settings: `batch_size` and `cache_dir` of [`~evaluation.evaluate_encoder.evaluate_encoder`], and settings of
            the protocols.

    Returns:
        `dict`: The record. `encoders`, by name their `results`, their `fingerprint` and, from the Hub, their `commit`;
        `differences`, of each further encoder to the first one, see [`~evaluation.paired_differences`]; `train` and
        `eval`, the data: `images` that could be read, `broken` ones, and where they are from;
        `shared_images`, how many of the compared test images are training images too; `protocols`, `settings`,
        `versions`, `device`, `processes`, `date`.
    """
    if out is not None:
        check_out(Path(out))
    work = {name: settings[name] for name in ("batch_size", "cache_dir") if name in settings}
    protocols = usual_protocols(splits[1]) if protocols is None else protocols
    chosen = checked_protocols(protocols, splits, {name: settings[name] for name in settings if name not in work})
    for encoder in encoders[1:]:  # now, not after the hours that the ones before them may take
        FeatureExtractor(*load_encoder(encoder)).try_images(*splits)
    largest = _largest_class(splits[1]) if any(protocol.labels == "classes" for protocol in chosen) else {}
    record: dict[str, Any] = {
        "encoders": {},
        "differences": {},
        "train": _describe(splits[0]),
        "eval": _describe(splits[1]) | largest,
        "shared_images": vars(count_shared(splits[1], splits[0])),
        "protocols": [one if isinstance(one, str) else one.name for one in protocols],
        "settings": {name: value for name, value in settings.items() if value is not None and name != "cache_dir"},
        "versions": package_versions(),
        "processes": world_size(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    found: dict[str, Figures] = {}
    for encoder in encoders:
        loaded = load_encoder(encoder)
        record["device"] = str(loaded[0].device)
        extractor = FeatureExtractor(*loaded)
        extractor.try_images(*splits)
        identity: dict[str, Any] = {"fingerprint": extractor.fingerprint()}
        if commit := getattr(loaded[0].config, "_commit_hash", None):  # only configs from the Hub
            identity["commit"] = commit
        for results in measure(loaded, splits, chosen, **work):
            found[str(encoder)] = results
            record["encoders"][str(encoder)] = identity | {"results": results}
            record["differences"] = differences_to_first(found)
            record.update(train=_describe(splits[0]), eval=_describe(splits[1]) | largest)  # with what could be read
            if out is not None and is_first_rank():
                _write(Path(out), json.dumps(record, indent=2) + "\n")
    return record


def format_conditions(record: dict[str, Any]) -> str:
    """The images and software of a record of [`compare_encoders`], in one line to put below the table."""
    fitted_on, measured_on = (_count(record[part]) for part in ("train", "eval"))
    if record["train"]["dataset"] != record["eval"]["dataset"]:
        fitted_on += f" of {record['train']['dataset']}"
    versions = record["versions"]
    software = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    conditions = ", ".join([*software, record["device"]])
    shared = SharedImages(**record["shared_images"])
    warning = f"; {shared}" if shared.number else ""
    if (share := record["eval"].get("largest_class_share")) is not None:
        measured_on += f", {100 * share:.1f} % of them of the largest class"
    return f"{record['eval']['dataset']}: fitted on {fitted_on}, measured on {measured_on}; {conditions}{warning}"


def _count(part: dict) -> str:
    text = "a stream" if part["images"] is None else f"{part['images']:,} images"
    if part["broken"]:
        text = f"{part['images']:,} of {part['images'] + part['broken']:,} images"
    return text if part["split"] is None else f"{text} ({part['split']})"


def _write(out: Path, text: str) -> None:
    """Replace the record as a whole: what fails keeps the earlier one, with the encoders that are done."""
    try:
        if _is_device(out):
            out.write_text(text, encoding="utf-8")
        else:
            write_text(out.resolve(), text)
    except OSError as error:
        raise OSError(
            f"`--out` {str(out)!r} cannot be written ({reason_of(error)}): make room there, or choose another file. "
            "The figures so far are in the log."
        ) from error


def _is_device(out: Path) -> bool:
    """Whether there is something to write to, such as a pipe, that must not be replaced."""
    return out.exists() and not out.is_file()


def check_out(out: Path) -> None:
    """Refuse a path for a record that cannot be written."""
    if out.is_dir():
        raise ValueError(f"`--out` {str(out)!r} is a folder: name a file, for example {str(out / 'results.json')!r}.")
    if not out.parent.is_dir():
        raise ValueError(f"`--out` {str(out)!r}: the folder {str(out.parent)!r} does not exist; make it first.")
    written = {out if out.exists() else out.parent, out if _is_device(out) else out.resolve().parent}
    if not all(os.access(path, os.W_OK) for path in written):
        raise ValueError(f"`--out` {str(out)!r} cannot be written for lack of permission; choose another file.")


def _describe(source: ImageSource) -> dict:
    data: dict[str, Any] = {
        "dataset": source.name,
        "config": source.config,
        "revision": source.revision,
        "split": source.split,
    }
    data |= {"image_column": source.image_column, "label_column": list(source.several_labels) or source.label_column}
    images = source.num_images if source.num_read is None else source.num_read
    broken = None if images is None or source.num_images is None else source.num_images - images
    return data | {"images": images, "broken": broken, "fingerprint": source.fingerprint}


def _largest_class(source: ImageSource) -> dict[str, float]:
    """The share of the largest class, which an encoder has to exceed, if classes are of unequal size."""
    labels = labels_of(source) if source.label_kind == "class" else None
    if labels is None or not is_unbalanced(labels):
        return {}
    return {"largest_class_share": float(np.unique(labels, return_counts=True)[1].max() / len(labels))}
