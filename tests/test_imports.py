"""The direction of imports, and what `import lejepa_hf` may load."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lejepa_hf

PACKAGE = Path(lejepa_hf.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

# Module or room -> what it may import from this package, besides files of its own room. Arrows only downwards.
ALLOWED = {
    "system": set(),
    "ops": set(),
    "losses": {"ops", "system"},
    "data": {"ops", "system"},
    "configuration_lejepa": set(),
    "model": {"losses", "system"},
    "modeling_lejepa": {"configuration_lejepa", "losses", "model"},
    "evaluation": {"data", "losses", "model", "system"},
    "training": {
        "configuration_lejepa", "data", "evaluation", "losses", "model", "modeling_lejepa", "system",
    },
    "training_args": {"data", "system", "training"},
    "trainer": {"data", "model", "modeling_lejepa", "system", "training", "training_args"},
    "hub": {
        "configuration_lejepa", "data", "evaluation", "model", "modeling_lejepa", "system", "trainer", "training",
        "training_args",
    },
    "runs": {
        "configuration_lejepa", "data", "evaluation", "hub", "model", "modeling_lejepa", "system", "trainer",
        "training", "training_args",
    },
    "cli": {"data", "evaluation", "hub", "runs", "system"},
}  # fmt: skip
ENTRY_POINTS = {"__init__": set(), "__main__": {"cli"}}


def own_imports(path: Path) -> set[str]:
    """Top-level parts of this package that a file imports, wherever in the file."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(PACKAGE).parts[: depth - node.level]
            parts = [*inside, *(node.module or "").split(".")]
            names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
            found |= set(names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(name.split(".")[0] == "lejepa_hf" for name in names), f"{path}: import relatively"
    return found


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_direction(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own_imports(path) - {part} <= (ALLOWED | ENTRY_POINTS)[part]


def test_the_table_has_one_direction():
    assert len(ALLOWED) <= 15
    below = set()
    for part, allowed in ALLOWED.items():  # each part stands behind those that it imports
        assert allowed <= below, part
        below.add(part)


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()))
def test_a_room_says_what_lives_there_and_what_it_may_import(room):
    text = ast.get_docstring(TREES[PACKAGE / room / "__init__.py"])
    assert re.search(r"[Ii]mport", text)


def test_only_one_file_calls_torch_distributed():
    callers = [path.name for path in TREES if "torch.distributed" in path.read_text(encoding="utf-8")]
    assert callers == ["distributed.py"]


# One fresh process for all of this: each would spend seconds on importing torch and transformers.
STEPS = """
import importlib, json, sys, warnings

def loaded():
    return sorted({name.split(".")[0] for name in sys.modules})

import lejepa_hf
found = {"package": loaded()}
from lejepa_hf.losses.sigreg import SIGReg
assert lejepa_hf.SIGReg is SIGReg
SIGReg(num_slices=4)(__import__("torch").randn(8, 3))
found["sigreg"] = loaded()
from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
found["model"] = loaded()
sys.modules["datasets"] = None
from lejepa_hf import LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator, export_encoder
del sys.modules["datasets"]
found["moved"] = {}
for old, new in lejepa_hf._MOVED.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same = importlib.import_module(old) is importlib.import_module(new)
    found["moved"][old] = same and f"{old} is now {new}." in [str(warning.message) for warning in caught]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict:
    """What a fresh process has loaded, step by step; the last but one cannot import `datasets`."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_lazy(imported):
    heavy = {"datasets", "matplotlib", "numpy", "sklearn", "timm", "torch", "torchvision", "transformers", "triton"}
    assert not (heavy | {"yaml"}) & set(imported["package"])


def test_sigreg_alone_needs_nothing_but_torch(imported):
    others = {"accelerate", "datasets", "huggingface_hub", "safetensors", "tokenizers", "torchvision", "transformers"}
    assert "torch" in imported["sigreg"] and not others & set(imported["sigreg"])


def test_the_objective_and_model_need_no_data_packages(imported):
    assert not {"datasets", "timm", "matplotlib", "sklearn"} & set(imported["model"])


def test_the_trainer_needs_no_datasets_package(imported):
    assert "moved" in imported  # it was imported without that package before


def test_old_paths_are_the_modules_at_their_new_ones(imported):
    assert imported["moved"] == dict.fromkeys(lejepa_hf._MOVED, True)


@pytest.mark.parametrize("name", lejepa_hf.__all__)
def test_public_names_exist(name):
    assert getattr(lejepa_hf, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match="LeJEPAModell"):
        lejepa_hf.LeJEPAModell  # noqa: B018
