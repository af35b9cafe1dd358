"""Text files are opened as UTF-8, whatever the locale of the machine is."""

import ast
from pathlib import Path

import pytest

import lejepa_hf

PACKAGE = Path(lejepa_hf.__file__).parent
_OPENING = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"}


def opens_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file in text mode and leaves its encoding to the locale."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name in ("read_text", "write_text"):  # of a path: our own function of that name is called without a dot
        return isinstance(call.func, ast.Attribute) and (name == "write_text" or not call.args)
    modes = [value.value for value in (*call.args, keywords.get("mode")) if isinstance(value, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str) and mode and set(mode) <= set("rwaxbt+")]
    is_pathlib_or_builtin = isinstance(call.func, ast.Name) or not call.args  # `open(path)` and `path.open()`
    if not modes:
        return name == "open" and is_pathlib_or_builtin
    return name in _OPENING and "b" not in modes[0]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("write_text(path, text)", False),
        ("distribution.read_text(name)", False),
        ("path.read_text(encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open('wb')", False),
        ("os.fdopen(handle, 'w')", True),
        ("Image.open(data)", False),
    ],
)
def test_which_calls_open_text(code, expected):
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert opens_text_without_encoding(call) == expected


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_text_file_is_utf_8(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if opens_text_without_encoding(call)]
    assert not lines, f"name `encoding='utf-8'` in {path}, lines {lines}"
