"""
Code blocks of README and of the pages: found, checked by the programs that they call, and run.

A Bash block is run command by command, unless it begins with `# not run: WHY` or `# not run yet: WHY`, which readers
see; then each of its commands is only parsed by what would run it. So is such a block of Python.
"""

import argparse
import configparser
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hub_client import environment
from hub_server import HubServer
from processes import run_script
from stranger import NOT_INSTALLED

from lejepa_hf.runs.recipe_text import load_yaml
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.system.installed_package import find_packaged

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LANGUAGES = ("python", "bash", "yaml", "text", "bibtex")  # the last two are read only: what programs print, a citation

_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SHELL_WORDS = ("for", "do", "done", "export", "cd")
_CONNECT = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import huggingface_hub
import pytest
os.chdir({folder!r})
sys.path.insert(0, {tests!r})
from hub_client import connect
huggingface_hub.constants.HF_HUB_CACHE = {folder!r} + "/hf-cache"
connect(SimpleNamespace(url={url!r}, folder=Path({folder!r}), requests=[]), pytest.MonkeyPatch())
"""
_BACKBONE = "{model_type: vit, image_size: 224, patch_size: 16, hidden_size: 32, num_hidden_layers: 2, "
_BACKBONE += "num_attention_heads: 2, intermediate_size: 64}"
_IMAGES = ("photos", "path/to/folder")  # in place of a recipe, which is then chosen for them
_SHORT = {
    "use_cpu": [], "max_steps": ["2"], "save_steps": ["1"], "logging_steps": ["1"],
    "per_device_train_batch_size": ["8"], "num_slices": ["16"], "projector_dims": ["16", "8"],
    "num_local_views": ["1"], "dataloader_num_workers": ["0"], "monitor_images": ["16"], "eval_split": ["null"],
    "dataset": ["photos"],  # two dozen images: those of digits take most of a run to look at afterwards
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    Args:
        page (`str`): Path within the repository.
        line (`int`): Where it begins, from 1.
        section (`str`): The heading above.
        language (`str`): As the fence says.
        code (`str`): What is inside.
    """

    page: str
    line: int
    section: str
    language: str
    code: str

    @property
    def is_run(self) -> bool:
        """Whether its commands are for running here: it does not say otherwise, and is not `.ci/run`'s."""
        lines = (ROOT / self.page).read_text(encoding="utf-8").splitlines()
        return (
            not re.match(r"(#!.*\n)?# not run( yet)?: \S", self.code) and lines[self.line - 2] != "<!-- commands -->"
        )

    @property
    def is_installed(self) -> bool:
        """Whether the package of a block that begins with `# pip install NAME` is there; we do not depend on it."""
        extra = re.match(r"# pip install (\w+)\n", self.code)
        return extra is None or importlib.util.find_spec(extra[1]) is not None


def blocks_of(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in their order; of these languages, or all."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", before), re.MULTILINE)
        indent, language, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        found.append(Block(page, before.count("\n") + 1, headings[-1] if headings else "", language, code))
    return [block for block in found if not languages or block.language in languages]


def commands_of(block: Block) -> list[list[str]]:
    """
    The words of each command of a Bash block, with 1 for shell variables and the path for `$(lejepa recipes NAME)`;
    assignments and loops are left out.
    """
    commands = []
    for line in block.code.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\(lejepa recipes ([\w/]+)\)", lambda match: str(find_packaged(match[1])), line)
        line = re.sub(r"\$\{?\w+\}?", "1", line)
        if re.match(r"\w+=", line):
            continue
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            if command[0] not in _SHELL_WORDS:
                commands.append(command)
    return commands


# Parsed by the real thing


def check_bash(block: Block) -> None:
    """
    Raises:
        AssertionError, ValueError, SystemExit: If Bash or one of the programs refuses what it is given.
    """
    done = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    if "#SBATCH" in block.code:
        return  # tests/test_two_nodes.py runs it
    for program, *arguments in commands_of(block):
        assert program in _CHECKS, f"{block.page}:{block.line}: nothing here knows how to check {program!r}"
        _CHECKS[program](arguments)


def check_yaml(block: Block) -> None:
    """
    A recipe, or a part of one.

    Raises:
        ValueError: If a key is unknown, of the wrong type or out of range.
    """
    missing = {"dataset": "digits", "max_steps": "1", "backbone_config": _BACKBONE}
    given = load_yaml(block.code)
    if {"pretrained_backbone", "backbone_config"} & given.keys():
        del missing["backbone_config"]
    _parse_text("".join(f"{key}: {value}\n" for key, value in missing.items() if key not in given) + block.code)


def _parse_text(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(text, encoding="utf-8")
        parse_recipe(recipe, ["--use_cpu"])


def _check_train(arguments: list[str]) -> None:
    recipe, *overrides = arguments
    if recipe in _IMAGES:
        recipe, overrides = "folder/small_cpu", ["--dataset", recipe, *overrides]
    if recipe != "mine.yaml":  # a copy that the reader makes
        parse_recipe(recipe, overrides)


def _check_lejepa(arguments: list[str]) -> None:
    from lejepa_hf.cli import _parser

    if arguments[0] == "train":
        return _check_train(arguments[1:])
    options, overrides = _parser().parse_known_args(arguments)
    if arguments[0] == "plan":
        return _check_train([options.recipe, *overrides])
    assert not overrides, f"lejepa {arguments[0]} does not know {overrides}"
    return None


def _check_accelerate(arguments: list[str]) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    assert arguments[0] == "launch"
    options = launch_command_parser().parse_args(arguments[1:])
    if options.config_file is not None:
        load_config_from_file(str(ROOT / options.config_file))
    _check_training(options)


def _check_training(options: argparse.Namespace) -> None:
    """What a launcher starts: a script, or this package's command line."""
    if options.module:
        assert options.training_script == "lejepa_hf"
        return _check_lejepa(options.training_script_args)
    return _check_script(options.training_script, options.training_script_args)


def _check_torchrun(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(arguments)
    _check_training(options)


def _check_script(script: str, arguments: list[str]) -> None:
    if script == "train.py":
        return _check_train(arguments)
    text = (ROOT / script).read_text(encoding="utf-8")
    for flag in (word for word in arguments if word.startswith("--")):
        assert f'"{flag}"' in text, f"{script} does not know {flag}"
    return None


def _check_measuring_hour(arguments: list[str]) -> None:
    text = (ROOT / "benchmarks" / "measure_gpu.sh").read_text(encoding="utf-8")
    for word in arguments[1:]:
        part = ROOT / "benchmarks" / f"measure_{word.split('-')[0]}.py"
        known = f"{word})" in text if word.startswith("--") else word.isdigit() or part.is_file()
        assert known, f"measure_gpu.sh does not know {word}"


def _check_pip(arguments: list[str]) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert arguments[0] == "install"
    for name in arguments[1:]:
        for extra in re.findall(r"\[(.*)\]", name):
            assert extra in setup["options.extras_require"], f"no extra {extra!r}"


def _check_make(arguments: list[str]) -> None:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _check_hf(arguments: list[str]) -> None:
    """Its parser is one of click or of typer, as the version wants; its help names the options either way."""
    command = [str(Path(sys.executable).with_name("hf")), *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    unknown = [word for word in arguments if word.startswith("--") and word not in done.stdout]
    assert done.returncode == 0 and not unknown, (unknown, done.stdout + done.stderr)


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "accelerate": _check_accelerate,
    "benchmarks/measure_gpu.sh": _check_measuring_hour,
    "cp": lambda arguments: None,
    "hf": _check_hf,
    "lejepa": _check_lejepa,
    "make": _check_make,
    "pip": _check_pip,
    "pytest": lambda arguments: None,
    "python": lambda arguments: _check_script(arguments[0], arguments[1:]),
    "torchrun": _check_torchrun,
}


# Run


def run_python(page: str, folder: Path, server: HubServer, *, installed: bool = True) -> str:
    """
    All Python blocks of a page as they stand, each with names of its own, in one process. One that begins with
    `# pip install NAME` is run only where that package is installed.

    Args:
        page (`str`): Path within the repository.
        folder (`Path`): Where they run.
        server ([`HubServer`]): Their Hub.
        installed (`bool`, *optional*, defaults to `True`): Whether lejepa-hf can be imported.

    Returns:
        `str`: What they print, `## ` and the section before each.
    """
    script = "" if installed else NOT_INSTALLED
    script += "import torch\ntorch.set_num_threads(1)\n"
    for block in blocks_of(page, "python"):
        if not (block.is_installed and block.is_run):
            continue
        where = f"{page}:{block.line}"
        script += f"print({'## ' + block.section!r}, flush=True)\n"
        script += f"exec(compile({block.code!r}, {where!r}, 'exec'), {{'__name__': '__main__'}})\n"
    if installed:  # a process that has imported already: most of the time would go into that
        script = _CONNECT.format(url=server.url, folder=str(folder), tests=str(ROOT / "tests")) + script
    (folder / "blocks.py").write_text(script, encoding="utf-8")
    if installed:
        output = folder / "blocks.txt"
        codes = run_script(folder / "blocks.py", [], output, 1, timeout=300)
        assert codes == [0], output.read_text(encoding="utf-8")[-4000:]
        return output.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "blocks.py"], cwd=folder, env=environment(server, folder / "hf-cache"),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr[-4000:])
    return done.stdout


@functools.cache
def run_command(words: tuple[str, ...], folder: Path, server: HubServer) -> None:
    """
    One command of a Bash block, the same one once; trainings are two steps of a small network. `lejepa` and `train.py`
    run in this process, which has imported what they need; the launchers have tests of their own.
    """

    from lejepa_hf import cli
    from lejepa_hf.runs import pretraining

    program, *arguments = words
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(arguments)
        if options.module:
            command = [sys.executable, "-m", "torch.distributed.run", *arguments]
            status = subprocess.run(command, cwd=folder, env=environment(server, folder / "hf-cache")).returncode
            assert status == 0, shlex.join(words)
            return
        output = folder / "torchrun.txt"
        processes = int(options.nproc_per_node)
        arguments = _shortened(options.training_script_args, folder)
        codes = run_script(ROOT / "train.py", arguments, output, processes)
        assert codes == [0] * processes, output.read_text(encoding="utf-8")[-4000:]
        return
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        options = launch_command_parser().parse_args(arguments[1:])
        status = pretraining.main(_shortened(options.training_script_args[options.module :], folder))
    elif program == "lejepa" and arguments[0] in ("train", "plan"):
        seconds = ["--seconds", "0.2"] if arguments[0] == "plan" else []
        status = cli.main([arguments[0], *_shortened(arguments[1:], folder), *seconds])
    elif program == "lejepa" and arguments[0] == "demo" and "--push" not in arguments:
        return  # serves until it is stopped: tests/demo/ looks at it in a browser
    elif program == "lejepa":
        status = cli.main(arguments)
    else:
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        status = subprocess.run(command, cwd=folder, env=environment(server, folder / "hf-cache")).returncode
    assert status == 0, shlex.join(words)


def _shortened(arguments: list[str], folder: Path) -> list[str]:
    """A run's command line with what makes it last seconds; what the page says stays."""
    recipe, *overrides = arguments
    given = {word[2:].partition("=")[0] for word in overrides if word.startswith("--")}
    additions = dict(_SHORT)
    # The network of a recipe that is chosen is small, and takes the crops of that recipe.
    if "digits" not in recipe.split("/") and recipe not in _IMAGES and "pretrained_backbone" not in given:
        additions["backbone_config"] = [_BACKBONE]
    additions["output_dir"] = [f"runs/short-{len(os.listdir(folder / 'runs'))}"]
    added = [word for key, values in additions.items() if key not in given for word in (f"--{key}", *values)]
    return [recipe, *overrides, *added]
