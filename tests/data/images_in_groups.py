"""Images with names and groups, which tests only list."""

from pathlib import Path

from datasets import Image

from lejepa_hf.data.sources import load_source


def touch_images(folder: Path, *names: str) -> str:
    """Empty files: no image is opened."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def digits_with(path: Path, number: int, **columns: list) -> str:
    """A Parquet file of digits with further columns."""
    rows = load_source("digits").dataset.select(range(number)).cast_column("image", Image())
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    rows.to_parquet(path)
    return str(path)
