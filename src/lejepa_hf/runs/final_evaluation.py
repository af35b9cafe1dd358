"""The evaluation at the end of a run: results.json is written after each column of its table, then pictures drawn."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

from ..data.sources import ImageSource
from ..evaluation.baselines import AVERAGED, ENCODER, Embed, table_columns
from ..evaluation.embeddings.extraction import LabelledEmbeddings
from ..evaluation.evaluate_encoder import measure_column
from ..evaluation.labelled_sources import count_shared
from ..evaluation.protocols.knn import nearest_vote
from ..evaluation.table import format_table
from ..hub.pictures.accuracies import draw_few_shot
from ..hub.pictures.held_out_classes import draw_confusion, draw_embeddings
from ..system.run_folder import RunFolder, write_json
from .image_pictures import draw_if_possible, picture_neighbours
from .recipe_sources import open_split, training_source
from .recipes import Recipe
from .shared_embeddings import SharedEmbeddings

logger = logging.getLogger("lejepa_hf")

_NAMES = {ENCODER: "the evaluation", AVERAGED: "the evaluation of the averaged encoder"}


class FinalEvaluation:
    """
    Evaluates what a run has exported beside its baselines. A kill, or an error in one column of the table, costs
    neither the figures that exist nor those of the columns after it.

    Args:
        run ([`RunFolder`]): Folder of the run, with its exported encoders.
        recipe ([`Recipe`]): Recipe of the run.
        facts (`dict`): Of the training, as in [`~runs.finishing.finish_run`].
        held_out ([`ImageSource`]): Labelled images to measure on.
        embedded ([`SharedEmbeddings`], *optional*): What all processes have embedded together.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        facts: dict[str, Any],
        held_out: ImageSource,
        embedded: SharedEmbeddings | None = None,
    ) -> None:
        self._run, self._recipe, self._facts, self._held_out = run, recipe, facts, held_out
        self._shared = embedded
        self._rows: dict[str, dict[str, float]] = {}
        self._embedded: tuple[LabelledEmbeddings, LabelledEmbeddings] | None = None

    def parts(self) -> dict[str, Callable[[], None]]:
        """What makes each part of the evaluation, by its name, in the order in which they need each other."""
        averaged = self._run.averaged_encoder if self._recipe.training.ema_decay else None
        columns = table_columns(self._run.encoder, averaged)
        measure = {_NAMES.get(name, f"the baseline {name!r}"): (name, make) for name, make in columns.items()}
        first, *others = ((title, partial(self._measure, *column)) for title, column in measure.items())
        pictures = {"the pictures of held-out images": self._draw}
        return dict([first]) | pictures | dict(others) | {"few_shot.png": self._summarise}

    @cached_property
    def _train(self) -> ImageSource:
        data = self._recipe.data
        return open_split(data, data.train_split) if self._shared is None else self._shared.train

    @cached_property
    def _data(self) -> dict[str, Any]:
        """What results.json records of the images."""
        data = self._recipe.data
        trained_on = [self._train] if data.mixture is None else [self._train, training_source(data)]
        return {
            "train_split": data.train_split,
            "eval_split": data.eval_split,
            "num_train_images": _num_read(self._train),
            "num_eval_images": _num_read(self._held_out),
            "shared_images": asdict(count_shared(self._held_out, *trained_on)),
        }

    def _measure(self, name: str, prepare: Callable[[], Embed]) -> None:
        """Measure a column and write all that exist."""
        if name != ENCODER and ENCODER not in self._rows:
            return  # a table without the encoder says nothing, and its error is reported
        protocols, pair = self._recipe.data.eval_protocols, (self._train, self._held_out)
        if self._shared is not None:
            prepare = self._shared.found(name, prepare)
        self._rows[name], embedded = measure_column(prepare, name, pair, protocols)
        if name == ENCODER:
            self._embedded = embedded
        seconds = _train_seconds(self._run, self._facts["global_batch"])
        costs = {"train_seconds": seconds, "energy_kwh": _energy_kwh(self._run)}
        content: dict[str, Any] = {
            "encoder": self._rows[ENCODER],
            "rows": self._rows,
            "table": format_table(self._rows),
        }
        content["run"] = self._data | self._facts | costs
        if AVERAGED in self._rows:
            content["averaged_encoder"] = self._rows[AVERAGED]
        write_json(self._run.results, content)

    def _draw(self) -> None:
        if self._embedded is None:
            return
        (bank, embedded), self._embedded = self._embedded, None  # the baselines need the memory
        held_out, folder = self._held_out, self._run.path
        names, labels = held_out.class_names, embedded.labels
        draw_if_possible("embeddings", draw_embeddings, folder, embedded.embeddings, labels, names)
        draw_if_possible("confusion", draw_confusion, folder, labels, nearest_vote(bank, embedded), names)
        draw_if_possible("neighbours", picture_neighbours, folder, (self._train, bank), (held_out, embedded))

    def _summarise(self) -> None:
        if self._rows:
            logger.info(f"\n{format_table(self._rows)}\n")
            draw_if_possible("few_shot", draw_few_shot, self._run.path, self._rows)


def _num_read(source: ImageSource) -> int | None:
    """Images without the broken ones, once a column has been measured on them."""
    return source.num_images if source.num_read is None else source.num_read


def _train_seconds(run: RunFolder, global_batch: int) -> float:
    """Time of all logged steps, those before a resume included."""
    seconds, last_step = 0.0, 0
    for row in run.read_metrics():
        seconds += (row["step"] - last_step) * global_batch / row["images_per_second"]
        last_step = row["step"]
    return seconds


def _energy_kwh(run: RunFolder) -> float | None:
    """Energy of all logged steps, None unless every row has its part."""
    rows = run.read_metrics()
    is_complete = bool(rows) and all(row.get("energy_kwh") is not None for row in rows)
    return sum(row["energy_kwh"] for row in rows) if is_complete else None
