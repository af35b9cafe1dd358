"""
The packaged recipes as a table. A recipe's opening comment states its hardware, time and result in one of its lines:
`# not run yet: COMMAND (HARDWARE)`, or `# ran: HARDWARE | MINUTES min | RESULT`.
"""

import re
from dataclasses import astuple, dataclass, fields

import yaml

from ..system.installed_package import packaged_recipes

NOT_RUN = "not run yet"
_LAUNCHER = "accelerate/"  # not recipes, but files for `accelerate launch`


@dataclass(frozen=True)
class RecipeSummary:
    """A row of the table."""

    name: str
    images: str  # dataset and side of the large crops
    hardware: str
    minutes: str  # of the whole run; empty if there was none
    result: str


def summarise(name: str, text: str) -> RecipeSummary:
    """
    Summarise the recipe `name` with the content `text`.

    Raises:
        ValueError: If its opening comment has neither of the two lines.
    """
    settings = yaml.safe_load(text)
    dataset = "your own" if settings["dataset"].startswith("path/to/") else settings["dataset"]
    images = f"{dataset}, {settings['global_crop_size']} px"
    if ran := re.search(r"^# ran: (.+?) \| (\d+) min \| (.+)$", text, re.M):
        return RecipeSummary(name, images, *ran.groups())
    if waits := re.match(rf"# {NOT_RUN}: .*?\((.+)\)$", text, re.M):
        return RecipeSummary(name, images, re.split("; |, `", waits[1])[0], "", NOT_RUN)
    raise ValueError(
        f"Recipe {name!r} must begin with `# {NOT_RUN}: COMMAND (HARDWARE)`, or have a line "
        "`# ran: HARDWARE | MINUTES min | RESULT`."
    )


def format_recipes() -> str:
    """A table of all packaged recipes, and the names of the files for launchers below it."""
    recipes = packaged_recipes()
    texts = {name: path.read_text(encoding="utf-8") for name, path in recipes.items() if _LAUNCHER not in name}
    rows = [tuple(column.name for column in fields(RecipeSummary))]
    rows += [astuple(summarise(name, text)) for name, text in texts.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    launchers = ", ".join(name for name in recipes if _LAUNCHER in name)
    return "\n".join([*lines, "", f"For `accelerate launch --config_file $(lejepa recipes NAME)`: {launchers}."])
