import ast
import dataclasses
import subprocess
import sys

import pytest

from lejepa_hf.cli import main
from lejepa_hf.runs.pretraining import main as train
from lejepa_hf.runs.recipe_help import KeyHelp, describe_keys, format_help, read_class
from lejepa_hf.runs.recipes import known_keys
from lejepa_hf.training.argument_table import ARGUMENTS, Refused

GROUPS = describe_keys()
KEYS = {name: key for keys in GROUPS.values() for name, key in keys.items()}


def test_every_key_that_is_not_refused_is_there_once():
    refused = {name for name, decision in ARGUMENTS.items() if isinstance(decision, Refused)}
    assert sorted(KEYS) == sorted(known_keys().keys() - refused) and len(KEYS) == sum(map(len, GROUPS.values()))


def test_groups():
    assert list(GROUPS["Backbone and objective"])[0] == "backbone_config"
    assert {"dataset", "global_crop_size"} <= GROUPS["Data and views"].keys()
    assert {"eval_split", "eval_protocols", "monitors", "eval_steps"} <= GROUPS["Evaluation"].keys()
    assert list(GROUPS["Training"])[0] == "output_dir" and "learning_rate" in GROUPS["Training"]


@pytest.mark.parametrize("name", KEYS)
def test_a_key(name):
    key, (field,) = KEYS[name], [item for item in dataclasses.fields(known_keys()[name]) if item.name == name]
    assert key.kind and key.text and 8 < len(key.text) < 420
    assert key.text.count("`") % 2 == 0 and "[`" not in key.text and " > " not in key.text
    if name == "optim" or not key.default:  # it depends on PyTorch, or is made by a function
        return
    told = ast.literal_eval(key.default) if "/" not in key.default else [0.75, 4 / 3]
    real = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    assert told == real or told == getattr(real, "value", None)


def test_what_a_text_says(tmp_path):
    (tmp_path / "a.py").write_text(
        "@dataclass\nclass A:\n    '''\n    It.\n\n    Args:\n"
        "        one, two (`int`, *optional*): Short. Then `more`.\n"
        "            And more.\n        three (`str`, defaults to 8): See [`~a.b.C`], e.g. this.\n\n    Raises:\n"
        "        ValueError: Never.\n    '''\n\n    one: int\n    two: int = 2\n    three: int = THREE\n"
        "    four: list[int] = field(default_factory=lambda: [1, 2], metadata={'help': 'Four.'})\n"
        "    five: int = field(init=False)\n"
    )
    assert read_class(tmp_path / "a.py", "A") == {
        "one": KeyHelp("int", "", "Short. Then `more`."),
        "two": KeyHelp("int", "2", "Short. Then `more`."),
        "three": KeyHelp("int", "8", "See `C`, e.g. this."),
        "four": KeyHelp("list[int]", "[1, 2]", "Four."),
    }


@pytest.mark.parametrize("arguments", [["--help"], ["digits/resnet_tiny", "-h"]])
def test_commands_print_it(arguments, capsys):
    assert main(["train", *arguments]) == 0 and train(arguments) == 0
    assert capsys.readouterr().out == f"{format_help()}\n" * 2
    assert max(map(len, format_help().splitlines())) <= 120


def test_torch_is_not_imported_for_it():
    code = "import sys; from lejepa_hf.cli import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
