"""notebooks/quickstart.ipynb: its committed outputs are of a whole run, and a fresh copy of it runs."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
ROW = r"^\| {} top1\s*\| ([\d.]+) ± [\d.]+\s*\| ([\d.]+)"  # of the encoder, and of an untrained one


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def check_figures(text: str) -> None:
    assert re.search(r"in % \| LeJEPA encoder\s*\| same encoder, untrained \|", text)
    linear, untrained = map(float, re.search(ROW.format("linear"), text, re.MULTILINE).groups())
    knn, _ = map(float, re.search(ROW.format("knn"), text, re.MULTILINE).groups())
    assert linear > untrained and linear > 95 and knn > 90
    before, after = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+)", text).groups())
    assert after < before / 2
    assert "ResNetModel (450, 128)" in text


def test_the_committed_outputs():
    assert NOTEBOOK.stat().st_size < 600_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it from top to bottom"
    check_figures(printed(notebook))
    pictures = [out for cell in code for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 4


def test_nothing_of_a_machine_is_in_it():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.findall(r"(?:/home|/root|/Users|/tmp|/work|/usr|site-packages)\b", text)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.slow
def test_a_fresh_copy_runs(tmp_path):
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # The kernel of this environment, whatever others are registered on the machine.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    assert manager.format_kernel_cmd()[0] == sys.executable
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, km=manager, timeout=400, resources=where).execute(cleanup_kc=True)
    check_figures(printed(notebook))
