"""Where a run stands in its data: one file a rank in each checkpoint."""

import json
from pathlib import Path


def position_file(rank: int) -> str:
    """Its name for a rank."""
    return f"data_position_{rank}.json"


def advance(lanes: list[dict], position: dict) -> list[dict]:
    """The lanes of a rank in the order they are due, after a batch of one of them was consumed."""
    return [lane for lane in lanes if lane["lane"] != position["lane"]] + [position]


def write_position(checkpoint: str | Path, rank: int, lanes: list[dict], num_images: int, num_broken: int) -> None:
    """
    Args:
        checkpoint (`str` or `Path`): Existing folder.
        rank (`int`): This process.
        lanes (`list[dict]`): Positions of its lanes, see [`~data.streaming.EndlessRows`], in the order they are due.
        num_images (`int`): How many it has consumed since the run began.
        num_broken (`int`): How many of them could not be decoded.
    """
    content = {"lanes": lanes, "num_images": num_images, "num_broken": num_broken}
    (Path(checkpoint) / position_file(rank)).write_text(json.dumps(content) + "\n")


def read_positions(checkpoint: str | Path) -> list[dict]:
    """
    Args:
        checkpoint (`str` or `Path`): A checkpoint folder.

    Returns:
        `list[dict]`: What [`write_position`] wrote, by rank.

    Raises:
        ValueError: If a rank's file is missing.
    """
    paths = list(Path(checkpoint).glob("data_position_*.json"))
    ranks = [Path(checkpoint) / position_file(rank) for rank in range(max(1, len(paths)))]
    missing = [path.name for path in ranks if not path.is_file()]
    if missing:
        raise ValueError(
            f"`resume` {str(checkpoint)!r} does not say where the run stood in its data: {missing[0]} is missing. "
            "Resume from another checkpoint."
        )
    return [json.loads(path.read_text()) for path in ranks]
