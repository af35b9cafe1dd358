"""The embeddings that the evaluation at the end of a run needs, made by all of its processes together."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

from ..data.sources import ImageSource
from ..evaluation.baselines import PIXELS, Embed, table_columns
from ..evaluation.embeddings.extraction import LabelledEmbeddings
from ..hub.export import export_encoder
from ..system.distributed import failing_together, is_first_rank, wait_for_all
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder
from .recipe_sources import fitting_source
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")


class SharedEmbeddings:
    """
    Embeddings by the name of a column of the table, each used once.

    Args:
        train ([`ImageSource`]): Images that fit the protocols.
        columns (`dict`): By name the embeddings of training and held-out images.
    """

    def __init__(self, train: ImageSource, columns: dict[str, tuple[LabelledEmbeddings, LabelledEmbeddings]]) -> None:
        self.train, self._columns = train, columns

    def found(self, name: str, prepare: Callable[[], Embed]) -> Callable[[], Embed]:
        """What embeds the sources for a column: the embeddings that are there, or else `prepare`."""
        if name not in self._columns:
            return prepare
        of_train, of_held_out = self._columns.pop(name)
        return lambda: lambda source: of_train if source is self.train else of_held_out


def embed_together(recipe: Recipe, held_out: ImageSource) -> SharedEmbeddings | None:
    """
    Export the encoders of a trained run, and embed its images by them and by the untrained encoder, each process its
    part. All processes call this function and return the same; the first one then goes on alone.

    Args:
        recipe ([`Recipe`]): Recipe of the run, whose `pretraining/` is written.
        held_out ([`ImageSource`]): Labelled images to measure on.

    Returns:
        [`SharedEmbeddings`] of the columns that could be embedded; None if the encoders could not be exported. What
        is missing is made, or its error reported, by [`~runs.finishing.finish_run`].
    """
    run, has_average = RunFolder(recipe.folder), bool(recipe.training.ema_decay)
    found: SharedEmbeddings | None = None
    try:
        with failing_together():
            if is_first_rank():
                export_encoder(run.path)
                if has_average:
                    export_encoder(run.path, averaged=True)
        with failing_together():
            columns: dict[str, tuple[LabelledEmbeddings, LabelledEmbeddings]] = {}
            found = SharedEmbeddings(fitting_source(recipe.data), columns)
        averaged = run.averaged_encoder if has_average else None
        for name, make in table_columns(run.encoder, averaged, run.embeddings).items():
            if name != PIXELS:  # which no network embeds
                with failing_together():
                    embed = make()
                columns[name] = embed(found.train), embed(held_out)
        wait_for_all()  # until all have read them
    except Exception as error:  # whatever it is, it may not cost a trained run its evaluation
        if is_first_rank():
            logger.warning(f"One process evaluates alone: {reason_of(error)}")
    finally:
        if is_first_rank():
            shutil.rmtree(run.embeddings, ignore_errors=True)
    return found
