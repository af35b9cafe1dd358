"""Positions of readers as a checkpoint keeps them."""

import tempfile

from lejepa_hf.data.reader_state import RankState, ReaderPosition, read_positions, write_position


def written_and_read(readers: list[ReaderPosition]) -> list[ReaderPosition]:
    with tempfile.TemporaryDirectory() as folder:
        write_position(folder, 0, RankState(readers, 0, 0))
        return read_positions(folder)[0].readers
