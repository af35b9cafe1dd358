"""What a run has logged: rows of its `metrics.jsonl`."""

import json
from pathlib import Path


def read_rows(run: str | Path) -> list[dict[str, float]]:
    """All rows, in the order they were written; a line torn by a kill is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_metrics(run: str | Path) -> list[dict[str, float]]:
    """Rows of training batches, which hold a loss, in the order of their steps."""
    return [row for row in read_rows(run) if "prediction_loss" in row]


def read_held_out(run: str | Path) -> list[dict[str, float]]:
    """Rows of held-out images, one a step: a step repeated after a kill counts as it was the last time."""
    return list({row["step"]: row for row in read_rows(run) if "eval_loss" in row}.values())


def read_results(run: str | Path) -> dict | None:
    """What `results.json` of a run holds, None where there was no evaluation."""
    path = Path(run) / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
