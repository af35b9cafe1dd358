"""Where files stand, what they are called, and what the package says that it needs."""

import ast
import configparser
import fnmatch
import re
import sys
from pathlib import Path

import pytest

import lejepa_hf

PACKAGE = Path(lejepa_hf.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Modules without a test file of their name: why.
TESTED_ELSEWHERE = {
    "__main__.py": "cli/test_encoder_commands.py starts `python -m lejepa_hf`",
}
# File names that did not say what their file does, and the one that says nothing at all.
FORMER_NAMES = {
    "outcome", "rehearsal", "launch", "blocks", "facts", "standalone", "collapse", "lanes", "positions", "openers",
    "some_rows", "written_aside", "remade_card", "usage", "compute_device", "utils",
}  # fmt: skip

# Imported names of packages that are called otherwise.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "pillow_heif": "pillow-heif",
    "onnx_ir": "onnx-ir",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
NOT_DECLARED = {
    "pynvml": "read only if it is installed; otherwise energy is estimated or left out",
    "starlette": "comes with gradio, which is built on it",
    "triton": "comes with PyTorch wherever its kernels can run",
}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(TESTS.parent / "setup.cfg", encoding="utf-8")
    return parsed


def names_of(requirements: str) -> set[str]:
    """Names of the packages in a list of requirements, without versions."""
    lines = [line for line in requirements.splitlines() if line.strip()]
    return {"".join(character if character.isalnum() or character in "-_" else " " for character in line).split()[0]
            for line in lines}  # fmt: skip


def imported_packages() -> set[str]:
    """Top-level names of everything that src imports, wherever in the file, from outside it."""
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__.py"], ids=str)
def test_a_module_has_a_test_of_its_name(module):
    test = TESTS / module.with_name(f"test_{module.name}")
    assert test.is_file() or module.as_posix() in TESTED_ELSEWHERE, f"write {test.relative_to(TESTS.parent)}"


def test_every_exception_still_exists():
    assert {Path(name) for name in TESTED_ELSEWHERE} <= set(MODULES)


def test_names_of_test_files_are_unique():
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_former_names_do_not_come_back():
    assert not {module.stem for module in MODULES} & FORMER_NAMES
    assert not {part for module in MODULES for part in module.parts[:-1]} & FORMER_NAMES


def test_few_entries_stand_at_the_top():
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")} - {"py.typed"}
    assert len(entries) <= 14, entries


def test_every_imported_package_is_declared(setup_cfg):
    required = names_of(setup_cfg["options"]["install_requires"])
    extras = {name for section in setup_cfg["options.extras_require"].values() for name in names_of(section)}
    imported = {DISTRIBUTIONS.get(name, name) for name in imported_packages() - NOT_DECLARED.keys()}
    assert required <= imported <= required | extras


def test_wheels_hold_every_file_that_is_not_python(setup_cfg):
    patterns = dict(setup_cfg["options.package_data"])
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()]
    others = [path for path in files if path.suffix not in (".py", ".pyc")]
    others = [path for path in others if path.parts[:2] != ("system", "recipes")]  # setup.py puts them into wheels
    assert Path("py.typed") in others
    for path in others:
        folder = next(place for place in (path.parent, *path.parents) if (PACKAGE / place / "__init__.py").is_file())
        package = ".".join([PACKAGE.name, *folder.parts])
        listed = [pattern.strip() for pattern in patterns.get(package, "").split(",")]
        inside = path.relative_to(folder).as_posix()
        assert any(fnmatch.fnmatch(inside, pattern) for pattern in listed), path


def test_no_text_installs_this_package_from_an_index():
    """It is on none: what is installed by its name there could be anything."""
    root = TESTS.parent
    pages = [root / "README.md", *root.glob("docs/*.md"), *root.glob("notebooks/*.ipynb"), *root.glob("model_cards/*")]
    for path in (*pages, *(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".md", ".html"))):
        assert not re.search(r"install\b[^`\n]*lejepa[-_]hf", path.read_text(encoding="utf-8")), path
