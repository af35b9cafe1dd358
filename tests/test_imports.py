"""The direction of imports, and what `import lejepa_hf` may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lejepa_hf

PACKAGE = Path(lejepa_hf.__file__).parent

# module or folder -> what it may import from this package, besides files of its own folder
ALLOWED = {
    "__init__": set(),
    "configuration_lejepa": set(),
    "batch_statistics": set(),
    "distributed": set(),
    "loading_errors": set(),
    "backbone": {"blocks", "loading_errors"},
    "ops": set(),
    "losses": {"ops", "distributed"},
    "projector": {"distributed"},
    "data": {"distributed"},
    "token_dropping": {"backbone"},
    "modeling_lejepa": {"backbone", "configuration_lejepa", "losses", "projector", "token_dropping"},
    "encoder_average": {"distributed"},
    "exact_accumulation": {"distributed", "modeling_lejepa"},
    "training_args": {"data"},
    "blocks": set(),
    "durable_files": set(),
    "energy": set(),
    "compilation": {"blocks"},
    "launch": set(),
    "finite_guard": set(),
    "resume_settings": set(),
    "preemption": {"distributed"},
    "checkpoints": {"data", "durable_files", "resume_settings"},
    "checkpointing_trainer": {"checkpoints"},
    "checkpoint_push": {"hub", "training_args"},
    "online_probe": {"distributed"},
    "collapse": set(),
    "monitors": {"collapse", "evaluation", "online_probe", "training_args"},
    "held_out": {"batch_statistics", "data", "distributed", "evaluation"},
    "run_folder": {"package_versions"},
    "package_versions": set(),
    "view_fitting": {"backbone", "recipes"},
    "recipes": {"configuration_lejepa", "data", "training_args"},
    "recipe_sources": {"data", "recipes"},
    "selection": {"data", "hub"},
    "outcome": {"data", "evaluation", "hub", "modeling_lejepa", "recipe_sources", "recipes"},
    "trainer": {
        "backbone", "blocks", "checkpoint_push", "checkpointing_trainer", "checkpoints", "compilation", "data",
        "encoder_average", "energy", "exact_accumulation", "finite_guard", "held_out", "launch", "modeling_lejepa",
        "monitors", "preemption", "resume_settings", "training_args",
    },
    "evaluation": {
        "backbone", "batch_statistics", "data", "distributed", "durable_files", "loading_errors", "losses",
        "package_versions",
    },
    "hub": {
        "backbone", "configuration_lejepa", "distributed", "durable_files", "encoder_average", "evaluation",
        "modeling_lejepa",
    },
    "continuation": {"backbone", "configuration_lejepa", "hub", "loading_errors", "modeling_lejepa", "recipes"},
    "train": {
        "backbone", "checkpoints", "configuration_lejepa", "continuation", "data", "evaluation", "hub",
        "modeling_lejepa", "outcome", "preemption", "recipe_sources", "recipes", "run_folder", "trainer",
        "training_args", "view_fitting",
    },
    "rehearsal": {"data", "recipes", "run_folder", "train"},
    "plan": {"continuation", "modeling_lejepa", "recipe_sources", "recipes", "rehearsal", "train", "view_fitting"},
    "__main__": {"cli"},
    "demo": {"backbone", "data", "evaluation", "hub"},
    "cli": {"data", "demo", "distributed", "evaluation", "hub", "outcome", "plan", "recipes", "selection", "train"},
}  # fmt: skip


def own_imports(path: Path) -> set[str]:
    """Top-level parts of this package that a file imports, wherever in the file."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(PACKAGE).parts[: depth - node.level]
            parts = [*inside, *(node.module or "").split(".")]
            names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
            found |= set(names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(name.split(".")[0] == "lejepa_hf" for name in names), f"{path}: import relatively"
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_direction(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own_imports(path) - {part} <= ALLOWED[part]


def test_only_one_file_calls_torch_distributed():
    callers = [path.name for path in PACKAGE.rglob("*.py") if "torch.distributed" in path.read_text()]
    assert callers == ["distributed.py"]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_is_lazy():
    heavy = {
        "torch",
        "torchvision",
        "transformers",
        "datasets",
        "timm",
        "matplotlib",
        "sklearn",
        "triton",
        "numpy",
        "yaml",
    }
    assert not heavy & loaded_by("import lejepa_hf")


def test_the_objective_and_model_need_no_data_packages():
    loaded = loaded_by("from lejepa_hf import SIGReg, LeJEPAConfig, LeJEPAForPreTraining")
    assert not {"datasets", "timm", "matplotlib", "sklearn"} & loaded


def test_the_trainer_needs_no_datasets_package():
    code = (
        "import sys; sys.modules['datasets'] = None; "
        "from lejepa_hf import LeJEPATrainer, LeJEPATrainingArguments, MultiCropCollator, export_encoder"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", lejepa_hf.__all__)
def test_public_names_exist(name):
    assert getattr(lejepa_hf, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match="LeJEPAModell"):
        lejepa_hf.LeJEPAModell  # noqa: B018
