"""docs/api.md lists what can be imported, and its docstrings reach the page in the form that mkdocstrings reads."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from doc_blocks import PAGES, blocks_of

import lejepa_hf

ROOT = Path(__file__).parent.parent
LISTED = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)


def defined(path: str) -> ast.AST:
    """The class, function or module of a path of names, read from its file."""
    module, name = ROOT / "src" / path.replace(".", "/"), ""
    if not module.with_suffix(".py").is_file():
        module, name = module.parent, module.name
    tree = ast.parse(module.with_suffix(".py").read_text(encoding="utf-8"))
    return next(node for node in tree.body if getattr(node, "name", "") == name) if name else tree


@pytest.mark.parametrize("path", LISTED)
def test_each_exists_and_has_a_docstring(path):
    assert ast.get_docstring(defined(path))


def test_every_public_name_is_listed():
    homes = {f"lejepa_hf.{home}.{name}" for name, home in lejepa_hf._HOMES.items()}
    assert homes <= set(LISTED)


def test_what_pages_import_is_listed():
    """Of the pages for users; those for contributors show private registries."""
    names = {path.rpartition(".")[2] for path in LISTED}
    for page in PAGES:
        for block in blocks_of(page, "python"):
            if page == "CONTRIBUTING.md":
                continue
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lejepa_hf"):
                    assert {alias.name for alias in node.names} <= names, f"{page}:{block.line}"


def test_docstrings_in_the_form_that_mkdocstrings_reads():
    pytest.importorskip("griffe")  # comes with mkdocstrings
    spec = importlib.util.spec_from_file_location("api_docstrings", ROOT / "docs" / "api_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    docstring = """
    Say what it does, see [`~a.b.Thing`].

    Args:
        views (`torch.Tensor` of shape `(V, B)`, *optional*): Pixels
            of [`Thing`].
        low, high (`int` or `str`, *optional*, defaults to 8): Ends.
        rest: Without a type.

    Returns:
        `float`: A figure: large is good.

    Raises:
        ValueError: If not.
    """
    assert module.in_google_form(docstring).splitlines() == [
        "Say what it does, see `Thing`.",
        "",
        "Args:",
        "    views (torch.Tensor): Shape `(V, B)`. Pixels of `Thing`.",
        "    low (int | str): Ends.",
        "    high (int | str): Ends.",
        "    rest: Without a type.",
        "",
        "**Returns** `float`: A figure: large is good.",
        "",
        "Raises:",
        "    ValueError: If not.",
    ]
