"""Results of protocols as text: a Markdown table, and a line of the log."""

from .intervals import INTERVAL, is_spread


def format_table(results: dict[str, dict[str, float]]) -> str:
    """
    Format results, by name of the column, as a Markdown table in percent: a line for each metric, with intervals
    behind the figures.
    """
    names = list(next(iter(results.values())))
    is_frozen = not any(name.startswith("eval_finetune") for name in names)
    rows = [["frozen, held out, in %" if is_frozen else "held out, in %", *results]]
    rows += [
        [_readable(name), *(_cell(values, name) for values in results.values())]
        for name in names
        if not is_spread(name)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def format_figures(results: dict[str, float]) -> str:
    """Format results without their intervals in one line, in percent."""
    return ", ".join(f"{_readable(name)} {100 * value:.1f}" for name, value in results.items() if not is_spread(name))


def _cell(values: dict[str, float], name: str) -> str:
    interval = f" ± {100 * values[name + INTERVAL]:.1f}" if name + INTERVAL in values else ""
    return f"{100 * values[name]:.1f}{interval}"


def _readable(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ")
