"""The evaluation at the end of a run: results.json is written after each column of its table, then pictures drawn."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import torch

from ..data.held_out_share import share_of
from ..data.image_contents import spread_rows
from ..data.image_source import some_rows
from ..data.sources import ImageSource
from ..evaluation.baselines import AVERAGED, ENCODER, Embed, table_columns
from ..evaluation.embeddings.extraction import LabelledEmbeddings, extract_embeddings
from ..evaluation.encoder_loading import load_encoder
from ..evaluation.evaluate_encoder import measure_column
from ..evaluation.labelled_sources import count_shared, map_style, select_rows
from ..evaluation.protocols.knn import nearest_vote
from ..evaluation.rank import rank_and_spread
from ..evaluation.table import format_table
from ..hub.pictures.accuracies import draw_few_shot
from ..hub.pictures.embedding_map import MOST_ON_A_MAP
from ..hub.pictures.held_out_classes import draw_confusion
from ..system.run_folder import RunFolder, write_json
from .image_pictures import draw_if_possible, picture_embeddings, picture_neighbours
from .recipe_sources import fitting_source, suitable_protocols, training_source
from .recipes import Recipe
from .shared_embeddings import SharedEmbeddings

logger = logging.getLogger("lejepa_hf")

MOST_TRAINING = 20_000  # training images among which neighbours of unlabelled ones are searched
_MOST_STREAMED = 2_000  # images of a stream, which stay in memory
_MOST_IN_RANK = 512
_NAMES = {ENCODER: "the evaluation", AVERAGED: "the evaluation of the averaged encoder"}


class FinalEvaluation:
    """
    Evaluates what a run has exported beside its baselines. A kill, or an error in one column of the table, costs
    neither the figures that exist nor those of the columns after it.

    Args:
        run ([`RunFolder`]): Folder of the run, with its exported encoders.
        recipe ([`Recipe`]): Recipe of the run.
        facts (`dict`): Of the training, as in [`~runs.finishing.finish_run`].
        held_out ([`ImageSource`]): Images to measure on. Without labels there are no accuracies: only rank and spread
            of the embeddings, and the pictures that need no labels.
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
        self._shown: tuple[ImageSource, ImageSource] | None = None  # what was embedded, if not all images
        self._of_embeddings: dict[str, float] = {}  # of the encoder, of held-out images

    def parts(self) -> dict[str, Callable[[], None]]:
        """What makes each part of the evaluation, by its name, in the order in which they need each other."""
        pictures = {"the pictures of held-out images": self._draw}
        if not self._has_labels:
            return {_NAMES[ENCODER]: self._measure_unlabelled} | pictures
        averaged = self._run.averaged_encoder if self._recipe.training.ema_decay else None
        columns = table_columns(self._run.encoder, averaged)
        measure = {_NAMES.get(name, f"the baseline {name!r}"): (name, make) for name, make in columns.items()}
        first, *others = ((title, partial(self._measure, *column)) for title, column in measure.items())
        return dict([first]) | pictures | dict(others) | {"few_shot.png": self._summarise}

    @property
    def _has_labels(self) -> bool:
        return self._held_out.label_column is not None

    @cached_property
    def _train(self) -> ImageSource:
        return fitting_source(self._recipe.data) if self._shared is None else self._shared.train

    @cached_property
    def _data(self) -> dict[str, Any]:
        """What results.json records of the images."""
        data = self._recipe.data
        trained_on = [self._train] if data.mixture is None else [self._train, training_source(data)]
        is_share = share_of(data.eval_split) is not None  # sources say of what
        return {
            "train_split": self._train.split if is_share else data.train_split,
            "eval_split": self._held_out.split if is_share else data.eval_split,
            "num_train_images": _num_read(self._train, is_share),
            "num_eval_images": _num_read(self._held_out, is_share),
            "shared_images": asdict(count_shared(self._held_out, *trained_on)),
        }

    def _measure(self, name: str, prepare: Callable[[], Embed]) -> None:
        """Measure a column and write all that exist."""
        if name != ENCODER and ENCODER not in self._rows:
            return  # a table without the encoder says nothing, and its error is reported
        protocols, pair = suitable_protocols(self._recipe.data, self._held_out), (self._train, self._held_out)
        if self._shared is not None:
            prepare = self._shared.found(name, prepare)
        self._rows[name], embedded = measure_column(prepare, name, pair, protocols)
        if name == ENCODER:
            self._embedded = embedded
        self._write()

    def _measure_unlabelled(self) -> None:
        """Embed a sample of both sides, for the pictures, and write what the embeddings say without labels."""
        embed = partial(extract_embeddings, *load_encoder(self._run.encoder))
        train = replace(self._train, label_column=None, class_names=None)
        self._shown = _sample(train, MOST_TRAINING), _sample(self._held_out, MOST_ON_A_MAP)
        self._embedded = embed(self._shown[0]), embed(self._shown[1])
        for source, shown in zip((self._train, self._held_out), self._shown, strict=True):
            if shown.num_images == source.num_images:
                source.num_read = shown.num_read
        self._write()

    def _write(self) -> None:
        """Write results.json with all that is measured so far."""
        if self._embedded is not None:
            rows = self._embedded[1].embeddings
            found = rank_and_spread(rows[spread_rows(len(rows), _MOST_IN_RANK)]) if len(rows) > 1 else {}
            self._of_embeddings = {
                name: found[name] for name in ("effective_rank", "embedding_spread") if name in found
            }
        seconds = _train_seconds(self._run, self._facts["global_batch"])
        costs = {"train_seconds": seconds, "energy_kwh": _energy_kwh(self._run)}
        content: dict[str, Any] = {
            "encoder": self._rows.get(ENCODER, {}),
            "rows": self._rows,
            "table": format_table(self._rows) if self._rows else "",
            "held_out": self._of_embeddings,
        }
        content["run"] = self._data | self._facts | costs
        if AVERAGED in self._rows:
            content["averaged_encoder"] = self._rows[AVERAGED]
        write_json(self._run.results, content)

    def _draw(self) -> None:
        if self._embedded is None:
            return
        (bank, embedded), self._embedded = self._embedded, None  # the baselines need the memory
        (train, held_out), folder = self._shown or (self._train, self._held_out), self._run.path
        if self._has_labels and not held_out.has_class_numbers:  # which pictures show by colours and names
            held_out = replace(held_out, label_column=None, class_names=None)
            bank, embedded = (replace(one, labels=torch.full((len(one.labels),), -1)) for one in (bank, embedded))
        draw_if_possible("embeddings", picture_embeddings, folder, held_out, embedded)
        if held_out.label_column is not None:
            predicted = nearest_vote(bank, embedded)
            draw_if_possible("confusion", draw_confusion, folder, embedded.labels, predicted, held_out.class_names)
        draw_if_possible("neighbours", picture_neighbours, folder, (train, bank), (held_out, embedded))

    def _summarise(self) -> None:
        if self._rows:
            logger.info(f"\n{format_table(self._rows)}\n")
            draw_if_possible("few_shot", draw_few_shot, self._run.path, self._rows)


def _sample(source: ImageSource, most: int) -> ImageSource:
    """At most this number of images, evenly spread, or of a stream some of the first ones."""
    if source.is_stream:
        return replace(source, dataset=list(some_rows(source, min(most, _MOST_STREAMED))))
    number = len(map_style(source))
    return source if number <= most else select_rows(source, spread_rows(number, most))


def _num_read(source: ImageSource, is_share: bool) -> int | None:
    """Images without the broken ones, once a column has been measured on them; until then, a stream only guesses."""
    guessed = is_share and source.is_stream
    return source.num_images if source.num_read is None and not guessed else source.num_read


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
