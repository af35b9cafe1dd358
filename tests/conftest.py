"""Shared by all tests: no network, one torch thread a process, tiny models."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before anything of Hugging Face is imported: a test that reaches for the network must fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have it from the process that started them
    # Not the user's own cache, login and embeddings.
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lejepa-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# Jobs in the background of a script ignore Ctrl+C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import torch  # noqa: E402
from backbone_table import format_table  # noqa: E402
from processes import run_script  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # A core each: runs started in tests would use all of them, and threads that wait for each other's core crawl.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})

# Files with tests that take many seconds. They are started first, so that no worker is left alone with one of them.
LONG = (
    "runs/test_pretraining.py",
    "test_trainer.py",
    "training/callbacks/test_held_out.py",
    "hub/test_model_card.py",
    "data/test_streaming.py",
    "training/test_checkpointing_trainer.py",
    "test_backbone_matrix.py",
    "runs/test_recipes.py",
    "ops/test_epps_pulley_eager.py",
    "test_hub_datasets.py",
    "data/test_hub_sources.py",
    "hub/test_export.py",
    "losses/test_sigreg.py",
    "system/test_distributed.py",
    "training/test_preemption.py",
    "training/test_compilation.py",
)


def pytest_collection_modifyitems(items):
    """Marks the tests of long files, and puts those files in front; the order inside a file stays."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    for item in items:
        if item.path in places:
            item.add_marker("long")
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(autouse=True, scope="module")
def short_collections():
    # The Trainer collects garbage when it begins and ends, which takes half a second among all imported modules.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it brings


@pytest.fixture
def tiny_vit() -> dict:
    return {
        "model_type": "vit",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 16,
        "patch_size": 4,
    }


@pytest.fixture
def tiny_resnet() -> dict:
    return {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
    }


@pytest.fixture
def two_processes(tmp_path):
    """Run a script in two or more real gloo processes; it fails when one of them does."""

    def run(script: Path, *arguments: str, processes: int = 2) -> str:
        output = tmp_path / "output.txt"
        codes = run_script(script, arguments, output, processes)
        assert codes == [0] * processes, (codes, output.read_text(encoding="utf-8")[-8000:])
        return output.read_text(encoding="utf-8")

    return run


def pytest_addoption(parser):
    parser.addoption("--backbone-table", help="write what the matrix of backbones shows into this file")


def pytest_terminal_summary(terminalreporter, config):
    """The controller sees the reports of all workers."""
    path = config.getoption("--backbone-table")
    if path:
        reports = (report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, []))
        rows = [report for report in reports if report.when == "call"]
        Path(path).write_text(format_table(rows), encoding="utf-8")
