"""The position of a run in its data, by reader: one file for each rank in a checkpoint."""

import json
import logging
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ..system.damaged_files import read_json

logger = logging.getLogger("lejepa_hf")


class Progress(NamedTuple):
    """How far one dataset has been read: the pass over it, counted from 0, and the rows read in that pass."""

    epoch: int
    taken: int


class ReaderPosition(NamedTuple):
    """The position of one reader, from which another one continues."""

    reader: int  # its number among those of all ranks; 0 for map-style datasets, which have one
    batches: int  # that it has made
    passes: list[Progress]  # in each of the mixed datasets, a single one without a mixture

    @classmethod
    def at_start(cls, reader: int, num_datasets: int, epoch: int = 0) -> "ReaderPosition":
        """The position of a reader that has read nothing since that epoch began."""
        return cls(reader, 0, [Progress(epoch, 0)] * num_datasets)


class RankState(NamedTuple):
    """The state of one rank's data in a checkpoint."""

    readers: list[ReaderPosition]  # the next one to make a batch first
    num_images: int  # consumed since the run began
    num_broken: int  # how many of them could not be decoded


def position_file(rank: int) -> str:
    """Name of the file of a rank in a checkpoint."""
    return f"data_position_{rank}.json"


def advance(readers: list[ReaderPosition], position: ReaderPosition) -> list[ReaderPosition]:
    """The readers of a rank after a batch of one of them was consumed: that one comes last."""
    return [other for other in readers if other.reader != position.reader] + [position]


def deal_readers(
    start: list[list[ReaderPosition]] | None, rank: int, world_size: int, num_readers: int, num_datasets: int
) -> tuple[list[ReaderPosition], int]:
    """
    Choose the readers of a rank, the next one to make a batch first, and count those of all ranks. A run is continued
    from `start`, for each of its ranks the positions of its readers.
    """
    total = world_size * num_readers
    if start is None:
        return [ReaderPosition.at_start(reader, num_datasets) for reader in range(rank, total, world_size)], total
    if len(start) == world_size:
        return start[rank], sum(map(len, start))
    readers = sorted(chain(*start))
    if len(readers) >= world_size:
        logger.info(
            f"The stream of {len(start)} processes is now read by {world_size}; each row still comes once per epoch."
        )
        return readers[rank::world_size], len(readers)
    epoch = 1 + max(progress.epoch for position in readers for progress in position.passes)
    logger.warning(
        f"The stream was read by {len(start)} processes with {len(readers)} readers in all, too few for {world_size}: "
        f"training continues with epoch {epoch}, and the rest of the epoch before is skipped."
    )
    return [ReaderPosition.at_start(reader, num_datasets, epoch) for reader in range(rank, total, world_size)], total


def write_position(checkpoint: str | Path, rank: int, state: RankState) -> None:
    """Write the state of a rank into an existing checkpoint folder."""
    content = state._asdict() | {"readers": [position._asdict() for position in state.readers]}
    (Path(checkpoint) / position_file(rank)).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_positions(checkpoint: str | Path) -> list[RankState]:
    """Read the states of all ranks from a checkpoint folder, also of one that an earlier version wrote."""
    paths = list(Path(checkpoint).glob("data_position_*.json"))
    ranks = [Path(checkpoint) / position_file(rank) for rank in range(max(1, len(paths)))]
    missing = [path.name for path in ranks if not path.is_file()]
    if missing:
        reason = f"has no position in the data: {missing[0]} is missing"
        raise ValueError(f"`resume` {str(checkpoint)!r} {reason}. Resume from another checkpoint.")
    return [_rank_state(read_json(path)) for path in ranks]


def _rank_state(content: dict[str, Any]) -> RankState:
    readers = content["readers"] if "readers" in content else content["lanes"]  # as version 0.1.0 called them
    return RankState([_reader_position(entry) for entry in readers], content["num_images"], content["num_broken"])


def _reader_position(entry: dict[str, Any]) -> ReaderPosition:
    reader = entry["reader"] if "reader" in entry else entry["lane"]
    return ReaderPosition(reader, entry["batches"], [Progress(*progress) for progress in entry["passes"]])
