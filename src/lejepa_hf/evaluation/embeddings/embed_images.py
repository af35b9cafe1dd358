"""embed_images: a source of images -> a Parquet file of embeddings."""

import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ...data.dataset_files import kind_of_files, without_secrets
from ...data.sources import ImageSource, load_source
from ..encoder_loading import find_encoder, load_encoder
from ..feature_extractor import FEATURE_POOLINGS, FeatureExtractor
from .extraction import embedded_batches
from .image_batches import rows_from
from .parquet_parts import EmbeddingFile, check_out

logger = logging.getLogger("lejepa_hf")

DTYPES = ("float32", "float16")
_MANY_BROKEN = 0.01  # of all images: what is said of them is no side note any more


@dataclass
class Features:
    """
    What is taken from an encoder.

    Args:
        pooling (`str`, *optional*, defaults to `"auto"`): `auto`, `pooler`, `cls` or `patches`, see
            [`FeatureExtractor`].
        layers (`int`, *optional*, defaults to 1): With `cls` or `patches`: so many of the last blocks, joined, deepest
            last.
        dtype (`str`, *optional*, defaults to `"float32"`): How they are stored, `float32` or `float16`.
        bf16 (`bool`, *optional*, defaults to `False`): Forward passes under autocast: faster on a GPU, less exact.
    """

    pooling: str = "auto"
    layers: int = 1
    dtype: str = "float32"
    bf16: bool = False

    def __post_init__(self):
        for field, known in (("pooling", FEATURE_POOLINGS), ("dtype", DTYPES)):
            if getattr(self, field) not in known:
                raise ValueError(f"`{field}` {getattr(self, field)!r} is unknown: choose of {', '.join(known)}.")
        if self.layers < 1:
            raise ValueError(f"`layers` must be at least 1, got {self.layers}.")


@dataclass
class EmbeddedImages:
    """
    What [`embed_images`] has written.

    Args:
        out (`Path`): The Parquet file.
        num_images (`int`): Its rows.
        dim (`int`): Numbers an embedding.
        num_broken (`int`): Images that could not be decoded and are left out.
        images_per_second (`float`): Of this call, without those it found embedded.
    """

    out: Path
    num_images: int
    dim: int
    num_broken: int
    images_per_second: float


def embed_images(
    model: str | Path,
    dataset,
    out: str | Path,
    features: Features | None = None,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
    seconds_per_part: float = 60.0,
    **source,
) -> EmbeddedImages:
    """
    Embed all images of a source into one Parquet file; repeated after a kill, go on where it was.

    The file has the columns `index` (row in the source), `path` (of the image, within its folder, where the source
    tells), `label` (where there is one, with the names of its classes) and `embedding` (a list of fixed length), and
    `lejepa` in its schema's metadata: model, dataset, pooling, layers, dimension. `datasets.load_dataset("parquet",
    ...)` reads it. Memory does not grow with the number of images.

    Args:
        model (`str` or `Path`): Exported encoder, run folder, or Hub id of any vision model that `AutoModel` loads.
        dataset: As in [`~data.sources.load_source`].
        out (`str` or `Path`): Ends in `.parquet`. Until it is finished, parts are in `<out>.parts/`.
        features ([`Features`], *optional*): Which; the trained embedding in fp32 if missing.
        batch_size (`int`, *optional*, defaults to 64): Images a forward pass.
        device (`str`, *optional*): The accelerator if there is one, or the CPU.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a finished `out`, delete parts of other settings.
        seconds_per_part (`float`, *optional*, defaults to 60): The most work a kill can cost.
        **source: Of [`~data.sources.load_source`]: `split`, `config`, `streaming` and so on.

    Returns:
        [`EmbeddedImages`]

    Raises:
        ValueError: Before any image is embedded, if something asked for is not there or cannot be done.
        DataError: On the way, if the source cannot be read on or a part cannot be written.
    """
    features = features or Features()
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    out = check_out(out, overwrite)
    opened = load_source(dataset, **source)
    extractor = FeatureExtractor(*load_encoder(model, device), features.pooling, features.layers, features.bf16)
    pooling, dim = extractor.try_one()
    weights = extractor.fingerprint()
    settings = {"model": os.path.abspath(model) if os.path.isdir(model) else str(model), "weights": weights}
    settings |= _identity(opened, source) | asdict(features)
    file = EmbeddingFile(out, settings, _schema(opened, features.dtype, dim), overwrite, seconds_per_part)
    before, started = file.num_images, time.monotonic()
    if file.next_row:
        logger.warning(f"{out}: going on with row {file.next_row}, {before} images are embedded already")
    try:
        rows = rows_from(opened, file.next_row)
        for batch, embeddings in embedded_batches(extractor, opened, batch_size, rows, file.next_row):
            batch.paths = [_path_within(path, opened.name) for path in batch.paths]
            file.add(batch, embeddings)
    finally:
        file.write_part()  # what a failure must not cost
    rate = (file.num_images - before) / (time.monotonic() - started)
    metadata = {"model": public_model(model), "weights": weights, "dataset": _public(opened.name)}
    if isinstance(dataset, str | Path):  # of a built dataset nobody knows
        metadata["split"] = source.get("split", "train")
    metadata |= {"pooling": pooling, "layers": features.layers, "dim": dim}
    metadata |= {"dtype": features.dtype, "bf16": features.bf16}
    file.finish(metadata | {"num_images": file.num_images, "num_broken": file.num_broken})
    _tell_broken(file)
    return EmbeddedImages(out, file.num_images, dim, file.num_broken, rate)


def _identity(opened: ImageSource, source: dict) -> dict:
    """What tells whether parts belong to this source; streaming or not, its rows are the same."""
    name = os.path.abspath(opened.name) if os.path.exists(opened.name) else opened.name
    asked = {key: value for key, value in source.items() if key != "streaming" and value is not None}
    if "data_files" in asked:
        asked["data_files"] = without_secrets(str(asked["data_files"]))
    found = {"image_column": opened.image_column, "label_column": opened.label_column}
    return {"dataset": name, "split": "train", **asked, **found, "num_images": opened.num_images}


def _schema(source: ImageSource, dtype: str, dim: int):
    """Columns as `datasets` reads them back, class names included."""
    from datasets import Features as Columns
    from datasets import List, Value

    first = next(iter(source.dataset), None)
    if first is None:
        raise ValueError(f"`dataset` {source.name!r} has no images: it is empty.")
    image = first[source.image_column]
    columns = {"index": Value("int64")}
    if isinstance(image, dict) and image.get("path"):
        columns["path"] = Value("string")
    if source.label_column is not None:
        columns["label"] = source.dataset.features[source.label_column]
    return Columns({**columns, "embedding": List(Value(dtype), length=dim)}).arrow_schema


def _path_within(path: str | None, source: str) -> str | None:
    """A file's path within the source's folder; nothing of where that folder is."""
    if path is None or "://" in path:
        return path and without_secrets(path)
    if not os.path.isabs(path):
        return path
    inside = os.path.relpath(path, os.path.abspath(source))
    return os.path.basename(path) if inside.startswith(os.pardir) else inside


def _public(name: str) -> str:
    """A name without the folders of this machine; ids of the Hub and urls are as they are."""
    if "://" in name and not name.startswith("file:"):
        return without_secrets(name)
    is_local = os.path.isabs(name) or name.startswith((".", "file:")) or os.path.exists(name) or kind_of_files(name)
    return os.path.basename(os.path.abspath(name)) if is_local else name


def public_model(model: str | Path) -> str:
    """The encoder of a run is called as the run is."""
    folder = find_encoder(model)
    if not os.path.isdir(folder):
        return _public(str(model))
    folder = Path(folder).resolve()
    return f"{folder.parent.name}/{folder.name}" if (folder.parent / "recipe.yaml").is_file() else folder.name


def _tell_broken(file: EmbeddingFile) -> None:
    if not file.num_broken:
        return
    share = file.num_broken / (file.num_images + file.num_broken)
    message = f"{file.out}: {file.num_broken} broken images are left out, {share:.2%} of all"
    if share > _MANY_BROKEN:
        logger.error(f"{message}. LOOK AT THE SOURCE before these embeddings are used. Among them: {file.broken}")
    else:
        logger.warning(message)
