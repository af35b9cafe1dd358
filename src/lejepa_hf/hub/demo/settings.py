"""DemoSettings: what a page shows, given on the command line or in a Space's `demo.json`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ...data.dataset_files import kind_of_files
from ...data.sources import DIGITS, ImageSource, load_source


@dataclass
class DemoSettings:
    """
    Args:
        encoder (`str`): Run folder, encoder folder or Hub id.
        dataset (`str`, *optional*): As in [`~data.sources.load_source`]: where neighbours and examples come from.
        split (`str`, *optional*, defaults to `"train"`): Of the dataset.
        images (`int`, *optional*, defaults to 2000): Neighbours are looked for among so many of its images, at most.
        title (`str`, *optional*): What the encoder is called, if not by its folder or id.

    Raises:
        ValueError: If `images` is less than 1.
    """

    encoder: str
    dataset: str | None = None
    split: str = "train"
    images: int = 2000
    title: str | None = None

    def __post_init__(self):
        if self.images < 1:
            raise ValueError(f"`images` must be at least 1, got {self.images}.")

    def open_dataset(self) -> ImageSource | None:
        """Its images, not read yet; None without a dataset."""
        if self.dataset is None:
            return None
        # All of a dataset of the Hub would be downloaded for a few images; a slice cannot be streamed.
        streaming = is_on_hub(self.dataset) and "[" not in self.split
        return load_source(self.dataset, self.split, streaming=streaming)

    def to_json(self) -> str:
        """As [`read`] reads it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> "DemoSettings":
        """Those of a file; the encoder may lie in a folder beside it."""
        settings = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        beside = Path(path).parent / settings.encoder
        if beside.is_dir():
            settings.encoder = str(beside)
        return settings


def is_on_hub(dataset: str) -> bool:
    """Whether it is a dataset's id, not a folder, files or what is embedded here."""
    is_here = dataset == DIGITS or os.path.exists(os.path.expanduser(dataset))
    return not is_here and "://" not in dataset and kind_of_files(dataset) is None
