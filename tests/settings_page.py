"""
Writes docs/settings.md, from what `lejepa train --help` prints and the arguments that are refused: `make settings`.

Keys of transformers that this package leaves as they are stand in the last section but one. Their types, defaults and
texts are those of the installed version, which the page names.
"""

import ast
from pathlib import Path

import transformers
import yaml

from lejepa_hf.runs.recipe_help import KeyHelp, describe_keys, read_class
from lejepa_hf.training.argument_table import ARGUMENTS, Refused

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "settings.md"
PACKAGE = ROOT / "src" / "lejepa_hf"
_OURS = {
    "Backbone and objective": ("runs/arguments.py", "ModelArguments"),
    "Images": ("runs/arguments.py", "DataArguments"),
    "Views": ("data/view_settings.py", "ViewSettings"),
    "Training": ("training_args.py", "LeJEPATrainingArguments"),
}
_MOST_USED = ("output_dir", "per_device_train_batch_size", "max_steps", "num_train_epochs")
_INTRODUCTION = """\
# Settings

<!-- `make settings` writes this page. A test fails while it differs from the code. -->

Every key that a recipe may have. It stands in the recipe as `key: value`, or on the command line, which wins:
`--key value`, `--key=value`, `--list a b c`, `--flag` for true; with dashes or underscores. `lejepa train --help`
prints the same list. An unknown key, a wrong type or a value out of range stops the run before it starts.

The defaults are those of the package. Recipes replace many of them: `lejepa recipes show NAME` prints one, and
`recipe.yaml` in a run folder has all values of that run. How to choose: [views, weight, projector](choices.md),
[images](own_images.md), [backbones](backbone_choice.md), [monitors](monitors.md).
"""
_HEAD = "| key | type | default | |\n|---|---|---|---|"
_OF_TRANSFORMERS = "## Of transformers' Trainer"
_REFUSED = """\
## Refused

These arguments of transformers would have no effect here, or a harmful one. Setting them is an error.

| key | why |
|---|---|"""


def format_page() -> str:
    """The page for the installed version of transformers."""
    sections = [_INTRODUCTION.rstrip()]
    for title, keys in _groups().items():
        if title == _OF_TRANSFORMERS:
            title += f"\n\nTypes, defaults and texts are those of transformers {transformers.__version__}."
        else:
            title = f"## {title}"
        sections.append("\n".join([f"{title}\n\n{_HEAD}", *(_row(name, key) for name, key in keys.items())]))
    refused = {name: decision for name, decision in sorted(ARGUMENTS.items()) if isinstance(decision, Refused)}
    rows = [f"| `{name}` | {_cell(decision.reason)} |" for name, decision in refused.items()]
    return "\n\n".join([*sections, "\n".join([_REFUSED, *rows])]) + "\n"


def our_keys() -> dict[str, KeyHelp]:
    """The keys that this package declares, with the text of their own docstring, which may be empty."""
    found: dict[str, KeyHelp] = {}
    for file, name in _OURS.values():
        found |= read_class(PACKAGE / file, name)
    return found


def rows_of(page: str) -> dict[str, tuple[str, str, str]]:
    """Type, default and text of each key in the tables of a page, without the refused ones."""
    lines = page.partition("\n## Refused")[0].splitlines()
    rows = [line.strip("| ").split(" | ", 3) for line in lines if line.startswith("| `")]
    return {name.strip("`"): (kind, default, text) for name, kind, default, text in rows}


def _groups() -> dict[str, dict[str, KeyHelp]]:
    """All keys by section, those of an evaluation apart from the class that declares them, as in `--help`."""
    described = describe_keys()
    evaluation = described.pop("Evaluation")
    everything = {name: key for keys in described.values() for name, key in keys.items()}
    groups: dict[str, dict[str, KeyHelp]] = {}
    for title, (file, name) in _OURS.items():
        wanted = [*(_MOST_USED if title == "Training" else ()), *read_class(PACKAGE / file, name)]
        groups[title] = {name: everything.pop(name) for name in dict.fromkeys(wanted) if name in everything}
    return groups | {"Evaluation": evaluation, _OF_TRANSFORMERS: everything}


def _row(name: str, key: KeyHelp) -> str:
    kind = " or ".join(f"`{part}`" for part in key.kind.split(" | "))
    return f"| `{name}` | {kind} | {_as_yaml(key.default)} | {_cell(key.text)} |"


def _as_yaml(default: str) -> str:
    """A default as a recipe writes it; what is not a literal stays as it is."""
    if not default:
        return ""
    try:
        text = yaml.safe_dump(ast.literal_eval(default), default_flow_style=True, width=1000).splitlines()[0]
    except ValueError:
        text = default
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(format_page(), encoding="utf-8")
