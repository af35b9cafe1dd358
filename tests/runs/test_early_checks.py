import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lejepa_hf.runs.early_checks import check_early, written_types
from lejepa_hf.runs.recipes import key_types, parse_recipe

ROOT = Path(__file__).parents[2]
BASE = "dataset: digits\nbackbone_config: {model_type: resnet}\nmax_steps: 5\n"
WRONG = {
    "learning_rat: 1.0": "`learning_rat` .*Did you mean `learning_rate`",
    "learning_rate: fast": "`learning_rate` .*float.*'fast'",
    "num_slices: true": "`num_slices` .*int.*True",
    "projector_dims: [8, wide]": "`projector_dims`.*wide",
    "sigreg_weight: 1.5": "`sigreg_weight` must be in",
    "num_global_views: 0": "`num_global_views`",
    "dataloader_num_workers: -1": "`dataloader_num_workers` must be at least 0, got -1",
    "max_steps: 0": "`max_steps` must be at least 1, got 0",
    "fp16: true\nbf16: true": "`fp16` and `bf16` are both true: choose one",
    "report_to: dvclive": "`report_to` 'dvclive': its package is not installed: `pip install dvclive`",
    "@weight: 3": "not valid YAML",
}


def test_types_are_those_of_the_dataclasses():
    written, real = written_types(), key_types()
    assert written.keys() == real.keys()
    assert {name: written[name] for name in ("output_dir", "dataset", "projector_dims", "bf16", "mixture")} == {
        name: real[name] for name in ("output_dir", "dataset", "projector_dims", "bf16", "mixture")
    }


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("[!a]*/*.yaml")), ids=lambda path: path.stem)
def test_recipes_pass_as_soon_as_their_images_exist(path, tmp_path):
    check_early([str(path), "--dataset", str(tmp_path), "--run_name", "a"])


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_the_early_message_is_that_of_the_run(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(
        BASE.replace("max_steps: 5\n", "" if "max_steps" in text else "max_steps: 5\n") + text
    )
    found = []
    for refuse in (lambda path: check_early([path]), parse_recipe):
        with pytest.raises(ValueError, match=message) as error:
            refuse(str(tmp_path / "recipe.yaml"))
        found.append(str(error.value))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits/resnet_tinny"], "No recipe 'digits/resnet_tinny'"),
        (["digits/resnet_tiny", "--dataset", "/no/such"], "`dataset` '/no/such': no such folder"),
        (["digits/resnet_tiny", "--dataset"], "`--dataset` on the command line has no value"),
        (["digits/resnet_tiny", "--output_dir", __file__], "`output_dir` '.*' is a file; choose another"),
        (["digits/resnet_tiny", "--output_dir", f"{__file__}/runs/x"], "test_early_checks.py' is a file; choose"),
        (["./no-such"], "`dataset` './no-such': no such folder"),
        (["./no-such", "--max_stepz", "3"], "Did you mean `max_steps`"),
        (["--seed", "3"], "must be a recipe or images, got '--seed'"),
        ([str(Path(__file__).with_name("conftest.py"))], "conftest.py is not valid YAML|conftest.py must hold"),
    ],
)
def test_command_lines(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_early(arguments)


def test_a_mistake_costs_no_torch(tmp_path):
    """Nor does a misspelt folder, while nobody answers at the address of the Hub."""
    code = (
        "import sys; from lejepa_hf.cli import main\n"
        "one, other = ['digits/resnet_tiny', '--max_stepz', '3'], ['digits/vit_tiny', '--seed', '-1']\n"
        "for wrong in (one, other, ['./no-such'], ['fotos'], []):\n"
        "    assert main(['train', *wrong]) == 2\n"
        "assert main(['plan', 'digits/resnet_tiny', '--sigreg_weight', '2']) == 2\n"
        "sys.exit(bool({'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys()))"
    )
    (tmp_path / "photos").mkdir()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        hub["NO_PROXY"] = "127.0.0.1"
        python = [sys.executable, "-c", code]
        done = subprocess.run(python, capture_output=True, text=True, cwd=tmp_path, env=os.environ | hub)
    assert "'fotos' is not a folder here, and the Hub cannot be reached" in done.stderr
    assert done.returncode == 0 and done.stderr.count("error: `") == 5 and "usage: lejepa train" in done.stderr, done
