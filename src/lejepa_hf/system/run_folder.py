"""The folder of a run: the name of every file in it, reading and writing them, and which run it belongs to."""

import dataclasses
import json
import re
import shutil
import uuid
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import yaml

from .damaged_files import damage_of, read_json
from .durable_files import publish_folder, write_text
from .folder_lock import locked_folder
from .installed_package import package_versions

Row = dict[str, Any]  # of metrics.jsonl: `step`, and numbers by name
PictureName = Literal["losses", "pca_maps", "gaussianity", "few_shot", "neighbours", "embeddings", "confusion"]


class RunFolder:
    """
    Knows what is stored where in the folder of a run, and writes files so that a kill leaves none of them half.

    Args:
        path (`str` or `Path`): The folder; need not exist yet.

    `encoder`, `averaged_encoder` and `pretraining` are the exported encoders and the whole trained model; `recipe`
    repeats the run; `record` holds its identity, its training arguments, and which names in the recipe were paths.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.encoder = self.path / "encoder"
        self.averaged_encoder = self.path / "encoder_averaged"
        self.pretraining = self.path / "pretraining"
        self.pictures = self.path / "pictures"
        self.recipe = self.path / "recipe.yaml"
        self.record = self.path / "run.json"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.embeddings = self.path / "_embeddings"  # only while several processes make them
        self.statistics = self.path / "statistics.json"
        self.report = self.path / "report.html"

    def is_begun(self) -> bool:
        """Whether a run was started here."""
        return self.record.is_file() and self.recipe.is_file()

    def picture(self, name: PictureName) -> Path:
        """The file of a picture."""
        return self.pictures / f"{name}.png"

    def dark_picture(self, name: PictureName) -> Path:
        """The file of the same picture with a dark background."""
        return self.pictures / "dark" / f"{name}.png"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """Checkpoints that are there, complete or not, in the order of their steps."""
        found = [path for path in self.path.glob("checkpoint-*") if step_of(path) is not None]
        return sorted(found, key=lambda path: (step_of(path) or 0, path.name))

    def exported(self, checkpoint: Path, averaged: bool = False) -> Path:
        """The folder of a checkpoint's exported encoder: `encoder-400` for `checkpoint-400`."""
        encoder = self.averaged_encoder if averaged else self.encoder
        return self.path / f"{encoder.name}-{step_of(checkpoint)}"

    def waiting_push(self, checkpoint: Path) -> Path:
        """Folder of what is to be pushed of a checkpoint, which may be deleted meanwhile."""
        return self.path / f"_{checkpoint.name}_to_push"

    def waiting_pushes(self) -> list[Path]:
        """All folders of that kind, in the order of their steps."""
        return sorted(self.path.glob("_checkpoint-*_to_push"), key=lambda path: (len(path.name), path.name))

    def add_checkpoint(self, written: Path) -> None:
        """Move a complete checkpoint, on the same disk under its final name, here, and add the run's identity."""
        if self.record.is_file():
            shutil.copy(self.record, written / self.record.name)
        publish_folder(written, self.path / written.name)

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder, made if missing: a ValueError if another process writes there, or it cannot be written."""
        return locked_folder(self.path, "`output_dir`")

    def claim(self, resume: str | Path | None = None, is_started: bool = False) -> None:
        """
        Refuse to write over another run: `resume` must be `"auto"`, or a checkpoint that the run in the folder wrote
        or began with. `is_started` says that this run itself has written its recipe already.
        """
        lost = [self.encoder, self.pretraining, self.results]
        begun = [] if is_started else [self.recipe, self.metrics]
        found = [path.name for path in (*begun, *lost, *self.checkpoints()) if path.exists()]
        if not found or resume == "auto" or (resume is not None and self._is_continued_from(Path(resume))):
            return
        other = f", and `resume` {str(resume)!r} is not one of its checkpoints" if resume is not None else ""
        raise ValueError(
            f"`output_dir` {str(self.path)!r} holds another run ({', '.join(found[:6])}){other}. Continue that run "
            "with `--resume` (in Python `resume_from_checkpoint`), or give this one another `--output_dir`."
        )

    def _is_continued_from(self, checkpoint: Path) -> bool:
        """Whether the run wrote this checkpoint, wherever it is now, or began with it and has written none since."""
        # One on another disk may be linked into the folder, or the folder itself be a link.
        if self.path.resolve() in (checkpoint.parent.resolve(), checkpoint.resolve().parent):
            return True
        own, other = self._read_record(), RunFolder(checkpoint)._read_record()
        if own.get("id") is None:
            return False
        is_unfinished = not self.checkpoints() and not self.pretraining.exists()
        return own["id"] == other.get("id") or (is_unfinished and own.get("resumed_from") == str(checkpoint.resolve()))

    def write_start(
        self,
        recipe: dict[str, Any],
        arguments: dict[str, Any] | None = None,
        resume: str | Path | None = None,
        images: str | None = None,
    ) -> None:
        """
        Write `recipe.yaml`, `versions.json` and `run.json`, which holds what only a run that begins knows. `recipe` is
        resolved, so that it repeats the run; `arguments` are all of training, defaults included, and tokens are left
        out; `resume` is the checkpoint that the run continues from; `images` says what was found in the images.
        """
        record = {
            "id": self._read_record().get("id") or uuid.uuid4().hex,
            "resumed_from": str(Path(resume).resolve()) if resume is not None else None,
            "local_paths": [name for name in _names_of_sources(recipe) if Path(name).expanduser().exists()],
            "arguments": {key: plain(value) for key, value in (arguments or {}).items() if "token" not in key},
            "images": images,
        }
        keys = {key: plain(value) for key, value in recipe.items()}
        write_text(self.recipe, yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110))
        write_json(self.record, record)
        write_json(self.versions, package_versions())

    def forget_start(self) -> None:
        """Delete what [`write_start`] wrote, and the rows, of a run that made no step: another may then start here."""
        if self.checkpoints() or self.pretraining.exists() or self.encoder.exists():
            return
        for file in (self.recipe, self.record, self.versions, self.metrics):
            file.unlink(missing_ok=True)

    def read_recipe(self) -> dict[str, Any]:
        """The content of `recipe.yaml`; empty if there is none."""
        text = self.recipe.read_text(encoding="utf-8") if self.recipe.is_file() else ""
        try:
            recipe = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{str(self.recipe)!r} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(recipe, dict):
            raise ValueError(f"{str(self.recipe)!r} is not a recipe: {damage_of(self.recipe) or 'it has no keys'}.")
        return recipe

    def read_arguments(self) -> dict[str, Any]:
        """Every training argument of the run; empty for runs that did not record them."""
        return self._read_record().get("arguments", {})

    def read_images(self) -> str | None:
        """What the start of the run found in its images: number, sizes, values; None where nothing was read."""
        return self._read_record().get("images")

    def read_local_paths(self) -> list[str] | None:
        """Names of datasets and models in the recipe that were paths; None for runs that did not record them."""
        return self._read_record().get("local_paths")

    def read_versions(self) -> dict[str, str]:
        """Version by package; empty where they are not known."""
        return _read_json(self.versions) or {}

    def read_results(self) -> dict[str, Any] | None:
        """The evaluation at the end, None where there was none."""
        return _read_json(self.results)

    def read_statistics(self) -> dict[str, float] | None:
        """How Gaussian the projections are, None where it was not measured."""
        return _read_json(self.statistics)

    def read_rows(self) -> list[Row]:
        """All logged rows in the order they were written; a line torn by a kill is left out."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def read_metrics(self) -> list[Row]:
        """Logged rows of training batches, which hold a loss, in the order of their steps."""
        return [row for row in self.read_rows() if "prediction_loss" in row]

    def read_held_out(self) -> list[Row]:
        """Logged rows of held-out images, one per step: the last one if a step was repeated after a kill."""
        return list({row["step"]: row for row in self.read_rows() if "eval_loss" in row}.values())

    def _read_record(self) -> dict[str, Any]:
        return _read_json(self.record) or {}


def step_of(checkpoint: Path) -> int | None:
    """The step in the name of a checkpoint; None for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match[1]) if match else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file of a run."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _names_of_sources(recipe: dict[str, Any]) -> list[str]:
    """Everything in a recipe that is a local path or an id of the Hub."""
    names = [recipe.get(key) for key in ("dataset", "pretrained_backbone", "continue_from")]
    names += [entry.get("dataset") for entry in recipe.get("mixture") or []]
    return [name for name in names if name]


def plain(value: object) -> object:
    """An argument as YAML and JSON can write it: the Trainer's turn some values into objects and enumerations."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
