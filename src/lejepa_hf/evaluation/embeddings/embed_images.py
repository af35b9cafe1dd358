"""embed_images: a source of images -> a Parquet file of embeddings."""

import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...data.dataset_files import kind_of_files
from ...data.opening_errors import without_secrets
from ...data.sources import ImageSource, load_source
from ..encoder_loading import find_encoder, load_encoder
from ..feature_extractor import FEATURE_POOLINGS, FeatureExtractor
from .extraction import embedded_batches
from .image_batches import rows_from
from .resumable_parquet import ResumableParquet

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
    from pyarrow import Schema

logger = logging.getLogger("lejepa_hf")

DTYPES = ("float32", "float16")
_MANY_BROKEN = 0.01  # of all images, from which on they are logged as an error


@dataclass
class Features:
    """
    Features to take from an encoder.

    Args:
        pooling (`str`, *optional*, defaults to `"auto"`): `auto`, `pooler`, `cls` or `patches`, see
            [`FeatureExtractor`].
        layers (`int`, *optional*, defaults to 1): With `cls` or `patches`, number of last blocks whose features are
            concatenated, deepest last.
        dtype (`str`, *optional*, defaults to `"float32"`): Type in which they are stored, `float32` or `float16`.
        bf16 (`bool`, *optional*, defaults to `False`): Whether forward passes run under autocast in bfloat16: faster
            on a GPU, less exact.
    """

    pooling: str = "auto"
    layers: int = 1
    dtype: str = "float32"
    bf16: bool = False

    def __post_init__(self) -> None:
        for field, value, known in (("pooling", self.pooling, FEATURE_POOLINGS), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"`{field}` {value!r} is unknown: choose one of {', '.join(known)}.")
        if self.layers < 1:
            raise ValueError(f"`layers` must be at least 1, got {self.layers}.")


@dataclass
class EmbeddedImages:
    """
    The result of [`embed_images`].

    Args:
        out (`Path`): The Parquet file.
        num_images (`int`): Number of its rows.
        dim (`int`): Dimension of an embedding.
        num_broken (`int`): Number of images that could not be decoded and are left out.
        images_per_second (`float`): Speed of this call, without images that were embedded before.
    """

    out: Path
    num_images: int
    dim: int
    num_broken: int
    images_per_second: float


def embed_images(
    model: str | Path,
    dataset: "str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict",
    out: str | Path,
    features: Features | None = None,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
    seconds_per_part: float = 60.0,
    **source: Any,  # noqa: ANN401
) -> EmbeddedImages:
    """
    Embed all images of a source into one Parquet file; the same call after a kill continues where it stopped.

    The file has the columns `index` (row in the source), `path` (of the image within its folder, if the source has
    it), `label` (if the source has labels, with the names of its classes) and `embedding` (a list of fixed length),
    and `lejepa` in its schema's metadata: model, dataset, pooling, layers, dimension.
    `datasets.load_dataset("parquet", ...)` reads it. Memory does not grow with the number of images.

    Args:
        model (`str` or `Path`): Exported encoder, run folder, or Hub id of any vision model that `AutoModel` loads.
        dataset: As in [`~data.sources.load_source`].
        out (`str` or `Path`): Path of the file, which ends in `.parquet`. Until it is finished, parts are in
            `<out>.parts/`.
        features ([`Features`], *optional*): Features to take. The trained embedding in fp32 if missing.
        batch_size (`int`, *optional*, defaults to 64): Images of a forward pass.
        device (`str`, *optional*): Device to compute on. If missing, the accelerator if there is one, or the CPU.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a finished `out` is replaced, and parts of other
            settings are deleted.
        seconds_per_part (`float`, *optional*, defaults to 60): The most work in seconds that a kill can cost.
        **source: Arguments of [`~data.sources.load_source`]: `split`, `config`, `streaming` and so on.

    Returns:
        [`EmbeddedImages`]

    Raises:
        ValueError: Before any image is embedded, if an argument cannot be used.
        DataError: If the source stops being readable or a part cannot be written.
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
    file = ResumableParquet(out, settings, _schema(opened, features.dtype, dim), overwrite, seconds_per_part)
    before, started = file.num_images, time.monotonic()
    if file.next_row:
        logger.warning(f"{out}: continuing with row {file.next_row}, {before} images are embedded already")
    try:
        rows = rows_from(opened, file.next_row)
        for batch, embeddings in embedded_batches(extractor, opened, batch_size, rows, file.next_row):
            batch.paths = [_path_within(path, opened.name) for path in batch.paths]
            file.add(batch, embeddings)
    finally:
        file.write_part()  # kept after a failure
    rate = (file.num_images - before) / (time.monotonic() - started)
    metadata: dict[str, object] = {"model": public_model(model), "weights": weights, "dataset": _public(opened.name)}
    if isinstance(dataset, str | Path):  # that of a built dataset is unknown
        metadata["split"] = source.get("split", "train")
    metadata |= {"pooling": pooling, "layers": features.layers, "dim": dim}
    metadata |= {"dtype": features.dtype, "bf16": features.bf16}
    file.finish(metadata | {"num_images": file.num_images, "num_broken": file.num_broken})
    _log_broken(file)
    return EmbeddedImages(out, file.num_images, dim, file.num_broken, rate)


def check_out(out: str | Path, overwrite: bool) -> Path:
    """
    Check the path of the final file.

    Args:
        out (`str` or `Path`): Path given by the user.
        overwrite (`bool`): Whether an existing file may be replaced.

    Returns:
        `Path`

    Raises:
        ValueError: If it does not end in `.parquet`, its folder is missing, or it exists already.
    """
    path = Path(out).expanduser()
    if path.suffix != ".parquet":
        raise ValueError(f"`out` {str(out)!r} must end in .parquet.")
    if not path.parent.is_dir():
        raise ValueError(f"`out` {str(out)!r}: the folder {str(path.parent)!r} does not exist; make it first.")
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"`out` {str(out)!r} exists already: set `overwrite` to replace it, or choose another name.")
    return path


def _identity(opened: ImageSource, source: dict[str, Any]) -> dict[str, Any]:
    """Identifies the source of parts. Streaming does not change its rows."""
    name = os.path.abspath(opened.name) if os.path.exists(opened.name) else opened.name
    given = {key: value for key, value in source.items() if key != "streaming" and value is not None}
    if "data_files" in given:
        given["data_files"] = without_secrets(str(given["data_files"]))
    found = {"image_column": opened.image_column, "label_column": opened.label_column}
    return {"dataset": name, "split": "train", **given, **found, "num_images": opened.num_images}


def _schema(source: ImageSource, dtype: str, dim: int) -> "Schema":
    """Columns for `datasets` to read back, with class names."""
    from datasets import Features as Columns
    from datasets import List, Value

    dataset = cast("IterableDataset", source.dataset)
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"`dataset` {source.name!r} has no images: it is empty.")
    image = first[source.image_column]
    columns = {"index": Value("int64")}
    if isinstance(image, dict) and image.get("path"):
        columns["path"] = Value("string")
    if source.label_column is not None:
        columns["label"] = dataset.features[source.label_column]
    return Columns({**columns, "embedding": List(Value(dtype), length=dim)}).arrow_schema


def _path_within(path: str | None, source: str) -> str | None:
    """A file's path within the source's folder, without the folder's own path."""
    if path is None or "://" in path:
        return path and without_secrets(path)
    if not os.path.isabs(path):
        return path
    inside = os.path.relpath(path, os.path.abspath(source))
    return os.path.basename(path) if inside.startswith(os.pardir) else inside


def _public(name: str) -> str:
    """A name without the folders of this machine; ids of the Hub and urls stay unchanged."""
    if "://" in name and not name.startswith("file:"):
        return without_secrets(name)
    is_local = os.path.isabs(name) or name.startswith((".", "file:")) or os.path.exists(name) or kind_of_files(name)
    return os.path.basename(os.path.abspath(name)) if is_local else name


def public_model(model: str | Path) -> str:
    """The name of an encoder without the folders of this machine: `<run>/encoder` for the encoder of a run."""
    folder = find_encoder(model)
    if not os.path.isdir(folder):
        return _public(str(model))
    folder = Path(folder).resolve()
    return f"{folder.parent.name}/{folder.name}" if (folder.parent / "recipe.yaml").is_file() else folder.name


def _log_broken(file: ResumableParquet) -> None:
    if not file.num_broken:
        return
    share = file.num_broken / (file.num_images + file.num_broken)
    message = f"{file.out}: {file.num_broken} broken images are left out, {share:.2%} of all"
    if share > _MANY_BROKEN:
        logger.error(f"{message}. CHECK THE SOURCE before you use these embeddings. Some of them: {file.broken}")
    else:
        logger.warning(message)
