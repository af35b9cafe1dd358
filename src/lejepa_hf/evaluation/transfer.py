"""The paper's transfer table: encoders on eight datasets, from one labelled image of each class to all of them."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.errors import DataError
from ..system.distributed import OtherRankFailed, is_first_rank
from ..system.durable_files import write_text
from ..system.error_text import reason_of
from .compare_encoders import compare_encoders
from .dataset_presets import find_preset
from .encoder_loading import load_encoder
from .feature_extractor import FeatureExtractor
from .labelled_sources import labelled_sources
from .protocols.few_shot import ALL
from .protocols.registry import make_protocols
from .table import markdown_table, percent_cell

logger = logging.getLogger("lejepa_hf")

# In the order of arXiv 2511.08544, Table 2.
DATASETS = ("dtd", "fgvc-aircraft", "stanford-cars", "cifar10", "cifar100", "flowers102", "food101", "oxford-pets")
SHOTS: tuple[int | str, ...] = (1, 10, ALL)


class TransferTable:
    """
    Evaluates encoders on several datasets and remembers what is done, so that the same call goes on after a kill.

    Few shots are those of [`~evaluation.protocols.few_shot`], and `all` is the paper's linear probe.

    Args:
        folder (`str` or `Path`): Folder for a record of [`compare_encoders`] for each dataset and `table.md`.
        encoders (`Sequence[str | Path]`): Folders or Hub ids.
        datasets (`Sequence[str]`, *optional*): Presets, or names for [`~data.sources.load_source`]; the paper's eight
            if missing.
        shots (`Sequence[int | str]`, *optional*, defaults to `(1, 10, "all")`): Images of each class.
        **settings: `batch_size` and `cache_dir`, as in [`~evaluation.evaluate_encoder.evaluate_encoder`].
    """

    def __init__(
        self,
        folder: str | Path,
        encoders: Sequence[str | Path],
        datasets: Sequence[str] = DATASETS,
        shots: Sequence[int | str] = SHOTS,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self._folder, self._encoders, self._datasets = Path(folder), [str(one) for one in encoders], list(datasets)
        self._shots, self._settings = list(shots), settings
        few = [k for k in shots if k != ALL]
        make_protocols(["few-shot"], {"shots": few})
        self._protocols = [*(["few-shot"] if few else []), *(["linear"] if ALL in shots else [])]
        self._protocol_settings = {"shots": few} if few else {}
        for dataset in self._datasets:
            find_preset(dataset)  # refuses misspelt names now, not when their turn comes
        files = [self._file(dataset) for dataset in self._datasets]
        if len(set(files)) < len(files):
            raise ValueError("`datasets` would write two records to one file; give datasets with different names.")

    def run(self) -> list[str]:
        """
        Evaluate what is missing, and return the datasets that failed, each with the reason; `table.md` is written
        after each dataset.
        """
        if is_first_rank():
            self._folder.mkdir(parents=True, exist_ok=True)
        prints = [FeatureExtractor(*load_encoder(encoder)).fingerprint() for encoder in self._encoders]
        failed = []
        for number, dataset in enumerate(self._datasets, 1):
            title = f"{dataset} ({number} of {len(self._datasets)})"
            if self._is_done(dataset, prints):
                logger.info(f"{title}: found in {self._file(dataset)}")
                continue
            logger.info(f"{title}: evaluating {len(self._encoders)} encoder(s)")
            try:
                self._measure(dataset)
            # Of one dataset; the others can still be measured.
            except (ValueError, OSError, DataError, OtherRankFailed) as error:
                failed.append(f"{dataset}: {reason_of(error)}")
                logger.warning(f"{title} failed: {reason_of(error)}")
            self._write_table()
        self._write_table()
        return failed

    def _write_table(self) -> None:
        if is_first_rank():
            write_text(self._folder / "table.md", self.table() + "\n")

    def table(self) -> str:
        """Top-1 accuracy in percent, a row for each number of shots and encoder; the average needs all datasets."""
        rows = [["shots", "encoder", *self._datasets, "average"]]
        records = {dataset: _read(self._file(dataset)) for dataset in self._datasets}
        for k in self._shots:
            name = _figure(k)
            for encoder in self._encoders:
                found = [_results(records[dataset], encoder) for dataset in self._datasets]
                values = [of_dataset[name] for of_dataset in found if name in of_dataset]
                average = f"{100 * sum(values) / len(values):.1f}" if values and len(values) == len(found) else "–"
                rows.append([str(k), encoder, *(percent_cell(of_dataset, name) for of_dataset in found), average])
        return markdown_table(rows)

    def _measure(self, dataset: str) -> None:
        settings = self._settings | self._protocol_settings
        compare_encoders(self._encoders, labelled_sources(dataset), self._protocols, self._file(dataset), **settings)

    def _is_done(self, dataset: str, fingerprints: Sequence[str]) -> bool:
        record = _read(self._file(dataset))
        names = [_figure(k) for k in self._shots]
        return all(
            record.get("encoders", {}).get(encoder, {}).get("fingerprint") == fingerprint
            and all(name in _results(record, encoder) for name in names)
            for encoder, fingerprint in zip(self._encoders, fingerprints, strict=True)
        )

    def _file(self, dataset: str) -> Path:
        return self._folder / f"{Path(dataset).name}.json"


def _figure(shots: int | str) -> str:
    """The name of the figure in a row of the table."""
    return "eval_linear_top1" if shots == ALL else f"eval_{shots}shot_top1"


def _results(record: Mapping[str, Any], encoder: str) -> dict[str, float]:
    return record.get("encoders", {}).get(encoder, {}).get("results", {})


def _read(file: Path) -> dict[str, Any]:
    """A record; empty if there is none yet or it was damaged, which evaluates the dataset again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
