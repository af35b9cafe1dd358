"""Tables of small generated images, as people have them."""

import json
from pathlib import Path

from PIL import Image


def write_photos(folder: Path, number: int) -> list[str]:
    """Images `photos/000.png` and so on of different greys, as paths from `folder` on."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    names = [f"photos/{place:03}.png" for place in range(number)]
    for place, name in enumerate(names):
        Image.new("RGB", (12, 12), (place * 7 % 256,) * 3).save(folder / name)
    return names


def write_table(path: Path, **columns: list) -> str:
    """A table by its ending: .csv, .tsv, .jsonl or .parquet; None is an empty cell."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([mark.join(columns), *lines]) + "\n", encoding="utf-8")
    return str(path)
