"""DemoSettings: what a page shows, from the command line or from the `demo.json` of a Space."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ...data.dataset_files import DIGITS, kind_of_files
from ...data.sources import ImageSource, load_source


@dataclass
class DemoSettings:
    """
    What a page shows: an encoder (run folder, encoder folder or Hub id), named by `title` if given; examples and at
    most `images` images to search for neighbours from a dataset, see [`~data.sources.load_source`].
    """

    encoder: str
    dataset: str | None = None
    split: str = "train"
    images: int = 2000
    title: str | None = None

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"`images` must be at least 1, got {self.images}.")

    def open_dataset(self) -> ImageSource | None:
        """The images of the dataset, not read yet; None without a dataset."""
        if self.dataset is None:
            return None
        # Streaming avoids the download of all of a dataset for a few images, but a slice cannot be streamed.
        streaming = is_on_hub(self.dataset) and "[" not in self.split
        return load_source(self.dataset, self.split, streaming=streaming)

    def to_json(self) -> str:
        """The content of a file that [`read`] reads."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> "DemoSettings":
        """Read the settings from a file. The encoder may be in a folder beside it."""
        settings = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        beside = Path(path).parent / settings.encoder
        if beside.is_dir():
            settings.encoder = str(beside)
        return settings


def is_on_hub(dataset: str) -> bool:
    """Whether a dataset is an id on the Hub, and not a folder, files, or the embedded digits."""
    is_here = dataset == DIGITS or os.path.exists(os.path.expanduser(dataset))
    return not is_here and "://" not in dataset and kind_of_files(dataset) is None
