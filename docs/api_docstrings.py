"""
Lets mkdocstrings read our docstrings, which have the form of transformers': `name (`int`, *optional*): text`.

Its reader knows Google's form, `name (int): text`. mkdocs.yml names this file, and keeps it out of the site.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator

import griffe

_ENTRY = re.compile(r"(?P<names>\w[\w, ]*?) \((?P<type>.*?)\): *(?P<text>.*)", re.DOTALL)


class TransformersDocstrings(griffe.Extension):
    """Rewrites the docstring of everything that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite the docstring of one class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = in_google_form(obj.docstring.value)


def in_google_form(docstring: str) -> str:
    """
    Rewrite a docstring: types without backticks, an entry for each name, shapes in the text, results as a paragraph,
    and links to other names, `[`SIGReg`]`, as code.
    """
    text = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", inspect.cleandoc(docstring))
    text = re.sub(r"^Returns:\n((?:    .*\n?|\n(?=    ))+)", _paragraph, text, flags=re.MULTILINE)
    return re.sub(r"^Args:\n((?:    .*\n?|\n(?=    ))+)", _arguments, text, flags=re.MULTILINE)


def _paragraph(section: re.Match) -> str:
    return f"**Returns** {textwrap.dedent(section[1]).strip()}\n"


def _arguments(section: re.Match) -> str:
    entries = re.split(r"\n(?=\S)", textwrap.dedent(section[1]).strip())
    return "\n".join(["Args:", *(f"    {line}" for entry in entries for line in _entry(entry))]) + "\n"


def _entry(entry: str) -> Iterator[str]:
    match = _ENTRY.fullmatch(entry)
    if match is None:  # without a type
        yield " ".join(entry.split())
        return
    declared, _, shape = match["type"].partition(" of shape ")
    shape = re.sub(r", \*optional\*.*", "", shape, flags=re.DOTALL)
    kind = " | ".join(re.findall(r"`([^`]+)`", declared.partition(", *optional*")[0])) or declared.partition(",")[0]
    text = f"Shape {shape}. {match['text']}" if shape else match["text"]
    for name in match["names"].split(", "):
        yield f"{name} ({kind}): {' '.join(text.split())}"
