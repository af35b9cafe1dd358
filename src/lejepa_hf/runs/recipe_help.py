"""
The help of `lejepa train`: every key of a recipe with its type, its default and the first sentence about it. All are
read from the texts of the dataclasses and their docstrings: importing them would take seconds, for torch.
"""

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_GROUPS = ("Backbone and objective", "Data and views", "Training", "Evaluation")
_EVALUATION = ("do_eval", "metric_for_best_model", "greater_is_better", "load_best_model_at_end")
_FIRST = ("output_dir", "per_device_train_batch_size", "max_steps", "num_train_epochs")  # of training, most used
USAGE = "usage: lejepa train RECIPE_OR_IMAGES [--key value ...]   (`lejepa train --help` lists the keys)"
_INTRODUCTION = """\
usage: lejepa train RECIPE [--key value ...]
       lejepa train IMAGES [--key value ...]

RECIPE is a YAML file, or a name that `lejepa recipes` lists. For IMAGES, a folder, Parquet or tar files or a dataset
of the Hub, a packaged recipe is chosen that fits them and this machine. Each key below may be in the recipe, as
`key: value`, or on the command line, which wins: `--key value`, `--key=value`, `--list a b c`, `--flag` for true; with
dashes or underscores. Beside the keys, `--quiet` leaves out progress bars and all lines but warnings and errors;
`metrics.jsonl` and trackers get all numbers. With each key: its type, and its default in the package, which recipes
replace."""


@dataclass(frozen=True)
class KeyHelp:
    """What the help says about a key."""

    kind: str  # its type, as Python writes it
    default: str  # as Python writes it; empty if there is none
    text: str  # one sentence


def format_help() -> str:
    """The complete help, one paragraph for each group of keys."""
    paragraphs = [_INTRODUCTION]
    for group, keys in describe_keys().items():
        lines = [f"{group}:"]
        for name, key in keys.items():
            lines.append(f"  --{name}  {key.kind}{f', {key.default}' if key.default else ''}")
            lines += textwrap.wrap(key.text, 116, initial_indent=" " * 6, subsequent_indent=" " * 6)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def describe_keys() -> dict[str, dict[str, KeyHelp]]:
    """All keys of a recipe that are not refused, by group."""
    model, data, training = read_keys()
    refused = _refused_arguments()
    groups: dict[str, dict[str, KeyHelp]] = {group: {} for group in _GROUPS}
    for group, keys in ((_GROUPS[0], model), (_GROUPS[1], data), (_GROUPS[2], training)):
        for name, key in keys.items():
            is_of_evaluation = name.startswith(("eval_", "monitor")) or name in _EVALUATION
            if name not in refused:
                groups["Evaluation" if is_of_evaluation else group][name] = key
    return groups


def read_keys() -> tuple[dict[str, KeyHelp], dict[str, KeyHelp], dict[str, KeyHelp]]:
    """All keys of a recipe, refused ones too: of the model, the data and the training."""
    config = read_class(_PACKAGE / "configuration_lejepa.py", "LeJEPAConfig")
    model = read_class(_PACKAGE / "runs/arguments.py", "ModelArguments")
    model = {name: _of_config(name, key, config) for name, key in model.items()}
    data = read_class(_PACKAGE / "runs/arguments.py", "DataArguments")
    data |= read_class(_PACKAGE / "data/view_settings.py", "ViewSettings")
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None, "it is required"
    inherited = read_class(Path(spec.origin).with_name("training_args.py"), "TrainingArguments")
    own = read_class(_PACKAGE / "training_args.py", "LeJEPATrainingArguments")
    own = {name: key if key.text else replace(key, text=inherited[name].text) for name, key in own.items()}
    training = {name: own.get(name, inherited[name]) for name in _FIRST} | own
    training |= {name: key for name, key in inherited.items() if name not in own}
    return model, data, training


def read_class(file: Path, name: str) -> dict[str, KeyHelp]:
    """The fields of a dataclass in a file of Python, without those that its constructor does not take."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    described = dict(_entries(ast.get_docstring(found) or ""))
    keys = {}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = _default_of(node.value)
            declared, text = described.get(node.target.id, ("", _help_in(node.value)))
            if default is not None and not node.target.id.startswith("_"):
                # The name of a constant: its value is in the docstring.
                told = re.search(r"defaults to `*(.+?)`*(?: \(|$)", declared) if default.isidentifier() else None
                default = told[1] if told and default not in ("None", "True", "False") else default
                default = default if "LeJEPAConfig" in default or not default.endswith(")") else ""  # a call
                keys[node.target.id] = KeyHelp(ast.unparse(node.annotation), default, text)
    return keys


def _default_of(value: ast.expr | None) -> str | None:
    """The default of a dataclass's field as Python writes it, None for a field that is not an argument."""
    if value is None:
        return ""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return ast.unparse(value)
    options = {option.arg: option.value for option in value.keywords}
    if "init" in options:
        return None
    factory = options.get("default_factory")
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body)
    return ast.unparse(options["default"]) if "default" in options else ""


def _help_in(value: ast.expr | None) -> str:
    """The text in a field's metadata, where transformers and `HfArgumentParser` have it."""
    for node in ast.walk(value) if isinstance(value, ast.Call) else ():
        if isinstance(node, ast.Dict) and isinstance(node.values[0], ast.Constant):
            return str(node.values[0].value)
    return ""


def _entries(docstring: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each argument in a docstring with what its parentheses hold and the first sentence of its description."""
    _, _, text = re.sub(r"\nParameters:", "\nArgs:", inspect.cleandoc(docstring)).partition("\nArgs:\n")
    text = text.partition("\n\nRaises:")[0].partition("\n\nSource:")[0]
    for entry in re.split(r"\n(?= {4}\w)", "\n" + text):
        names = re.match(r"([\w, ]+?) ?(?:\((.*?)\))?:\s+(.*)", " ".join(entry.split()))
        if names is not None:
            # One sentence, two if the first one is short; behind ` > ` comes a heading of transformers.
            sentence = re.match(r"(?:.{,40}?\.(?= [A-Z`]))?.+?(?:\.(?= [A-Z`])|(?= > [A-Z])|$)", names[3])
            assert sentence is not None, "everything matches"
            plain = re.sub(r"\[?`~?(?:[\w.]+\.)?(\w+)`\]?", r"`\1`", sentence[0])
            for name in names[1].split(", "):
                yield name, (names[2] or "", plain)


def _of_config(name: str, key: KeyHelp, config: dict[str, KeyHelp]) -> KeyHelp:
    """A key that is a field of the config too: what the config's docstring says, and the default there."""
    if "LeJEPAConfig" not in key.default:
        return key
    return KeyHelp(key.kind, config[name].default, config[name].text)


def _refused_arguments() -> set[str]:
    """Arguments of transformers that are an error, from the table of decisions."""
    tree = ast.parse((_PACKAGE / "training/argument_table.py").read_text(encoding="utf-8"))
    refused: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ARGUMENTS":
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                names, decision = [key], value
                if key is None and isinstance(value, ast.Call):  # **dict.fromkeys(names, decision)
                    names, decision = getattr(value.args[0], "elts", []), value.args[1]
                if ast.unparse(decision).startswith("Refused("):
                    refused |= {str(name.value) for name in names if isinstance(name, ast.Constant)}
    return refused
