"""Figures of encoders as a Markdown table."""

from .intervals import INTERVAL, is_spread

_IN_UNITS = "_mae"  # ends the name of a mean absolute error


def format_table(results: dict[str, dict[str, float]]) -> str:
    """
    Format results, by name of the column, as a Markdown table in percent: a line for each metric, with intervals
    behind the figures.
    """
    names = list(next(iter(results.values())))
    is_frozen = not any(name.startswith("eval_finetune") for name in names)
    rows = [["frozen, held out, in %" if is_frozen else "held out, in %", *results]]
    rows += [
        [readable_name(name), *(percent_cell(values, name) for values in results.values())]
        for name in names
        if not is_spread(name)
    ]
    return markdown_table(rows)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of cells, the head first, as a Markdown table with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def percent_cell(values: dict[str, float], name: str) -> str:
    """A figure in percent, with its interval if it has one; a dash where it is missing."""
    if name not in values:
        return "–"
    interval = f" ± {figure_text(name, values[name + INTERVAL])}" if name + INTERVAL in values else ""
    return f"{figure_text(name, values[name])}{interval}"


def figure_text(name: str, value: float, sign: str = "") -> str:
    """A figure in percent; an error in the unit of the labels, by its name, as it is; `sign` `"+"` shows its sign."""
    return f"{value:{sign}.4g}" if name.endswith(_IN_UNITS) else f"{100 * value:{sign}.1f}"


def readable_name(name: str) -> str:
    """The name of a metric in words."""
    words = name.removeprefix("eval_").replace("_", " ")
    return f"{words} (in the label's unit)" if name.endswith(_IN_UNITS) else words
