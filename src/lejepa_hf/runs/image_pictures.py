"""Pictures of a finished run that show images: patch features, and nearest neighbours."""

import logging
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ..data.decoding import DECODING_ERRORS
from ..data.image_source import some_rows
from ..data.sources import ImageSource
from ..evaluation.baselines import load_untrained
from ..evaluation.embeddings.extraction import LabelledEmbeddings
from ..evaluation.evaluate_encoder import load_encoder
from ..evaluation.feature_extractor import FeatureExtractor
from ..evaluation.patch_maps import PrincipalColours, enlarged_pixels, legible_patch_maps, patch_maps
from ..evaluation.pixel_values import in_own_colours, join_pixel_values
from ..evaluation.protocols.knn import nearest_neighbours
from ..hub.pictures.class_map import draw_embeddings
from ..hub.pictures.embedding_map import draw_image_map
from ..hub.pictures.image_grids import draw_neighbours, draw_patch_maps, draw_unlabelled_neighbours
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder
from .recipe_sources import held_out_source, training_source
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")


def draw_if_possible(name: str, draw: Callable[..., object], *arguments: object) -> None:
    """Draw a picture of a run. Whatever in the data it cannot draw, it may not cost the run more than this picture."""
    try:
        draw(*arguments)
    except OSError:  # about the disk, and mended by the same command
        raise
    except Exception as error:  # its data are those of strangers, its libraries not ours
        logger.warning(f"pictures/{name}.png is left out: {reason_of(error)}", exc_info=True)


def picture_patches(run: str | Path, recipe: Recipe, num_images: int = 6) -> Path | None:
    """
    Draw the patch features of held-out images, or of training images where the recipe has no others, beside those of
    the untrained network, into `pictures/pca_maps.png` of a run with `encoder/`. None where no image could be read or
    the encoder has no patches.
    """
    extractor = FeatureExtractor(*load_encoder(RunFolder(run).encoder))
    source = held_out_source(recipe.data) or training_source(recipe.data)
    images = []
    for row in some_rows(source, 4 * num_images, recipe.training.seed):
        try:
            images.append(extractor.decode(row[source.image_column], source.max_image_pixels))
        except DECODING_ERRORS:  # logged while training
            continue
        if len(images) == num_images:
            break
    if not images:
        return None
    try:
        maps, enlarge = legible_patch_maps(extractor, images)
    except DECODING_ERRORS as error:  # a ValueError of the encoder, or a thin image, enlarged
        logger.warning(f"pictures/pca_maps.png is left out: {error}")
        return None
    seen = in_own_colours(enlarged_pixels(extractor, images, enlarge), extractor.processor)
    before = patch_maps(FeatureExtractor(*load_untrained(RunFolder(run).encoder)), images, enlarge)
    return draw_patch_maps(run, seen, PrincipalColours(maps)(maps), PrincipalColours(before)(before))


def picture_neighbours(
    run: Path,
    bank: tuple[ImageSource, LabelledEmbeddings],
    held_out: tuple[ImageSource, LabelledEmbeddings],
    num_queries: int = 6,
    num_neighbours: int = 5,
) -> Path | None:
    """
    Draw held-out images of as many classes as possible, always the same ones, beside the training images (`bank`)
    nearest to them, into `pictures/neighbours.png` of a run with `encoder/`. None for streams. Without labels the
    held-out images are drawn at random.
    """
    (bank_source, bank_embedded), (source, embedded) = bank, held_out
    if bank_source.is_stream or source.is_stream:
        logger.info("pictures/neighbours.png is left out: images of a stream cannot be read again by number.")
        return None
    extractor = FeatureExtractor(*load_encoder(RunFolder(run).encoder))
    chosen = _one_of_each_class(embedded.labels.tolist(), num_queries)
    number = min(num_neighbours, len(bank_embedded.labels))
    cosines, nearest = nearest_neighbours(bank_embedded.embeddings, embedded.embeddings[chosen], number)
    shown = _pixels(extractor, bank_source, bank_embedded, nearest.flatten().tolist()).unflatten(0, nearest.shape)
    queries, labels = _pixels(extractor, source, embedded, chosen), embedded.labels[chosen].tolist()
    if source.label_column is None:
        return draw_unlabelled_neighbours(run, queries, shown, cosines)
    return draw_neighbours(run, queries, labels, shown, bank_embedded.labels[nearest].tolist(), source.class_names)


def picture_embeddings(run: Path, source: ImageSource, embedded: LabelledEmbeddings) -> Path | None:
    """
    Draw held-out images on a map of their embeddings, into `pictures/embeddings.png` of a run with `encoder/`: with
    labels as coloured points beside a legend with images, which a labelled stream cannot show; without labels as
    images.
    """
    extractor = FeatureExtractor(*load_encoder(RunFolder(run).encoder))
    pixels_of = None if source.is_stream else partial(_pixels, extractor, source, embedded)
    if source.label_column is not None:
        return draw_embeddings(run, embedded.embeddings, embedded.labels, source.class_names, pixels_of)
    assert pixels_of is not None, "a sample of a stream is a list"
    return draw_image_map(run, embedded.embeddings, pixels_of)


def _pixels(
    extractor: FeatureExtractor, source: ImageSource, embedded: LabelledEmbeddings, numbers: list[int]
) -> torch.Tensor:
    """Images by the number of their embedding, as the encoder sees them and not normalised."""
    rows = embedded.rows()
    values = (source.dataset[rows[number]][source.image_column] for number in numbers)
    pixels = [extractor.pixels(value, source.max_image_pixels) for value in values]
    return in_own_colours(join_pixel_values(pixels), extractor.processor)


def _one_of_each_class(labels: list[int], number: int) -> list[int]:
    """Indices of images, drawn at random with a fixed seed; no class comes twice before each class came once."""
    order = random.Random(0).sample(range(len(labels)), len(labels))
    seen: Counter[int] = Counter()
    turn = {}
    for index in order:
        turn[index] = seen[labels[index]]
        seen[labels[index]] += 1
    return sorted(order, key=turn.__getitem__)[:number]
