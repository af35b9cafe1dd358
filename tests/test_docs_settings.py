"""docs/settings.md is what `make settings` writes."""

import re

import pytest
import transformers
from settings_page import PAGE, format_page, our_keys, rows_of

from lejepa_hf.runs.recipe_help import describe_keys

WRITTEN, NOW = PAGE.read_text(encoding="utf-8"), format_page()
_WAY_OUT = "run `make settings`"


def outdated(written: str) -> set[str]:
    """Our keys that a page lacks, or whose type, default or, if it is ours, text are not those of the code."""
    told, now = rows_of(written), rows_of(NOW)
    compared = {name: 3 if key.text else 2 for name, key in our_keys().items() if name in now}
    return {name for name, number in compared.items() if told.get(name, ())[:number] != now[name][:number]}


def test_the_page_is_that_of_the_code():
    (version,) = re.findall(r"those of transformers ([\w.]+)\.\n", WRITTEN)
    if version != transformers.__version__:
        pytest.skip(f"the page has the texts of transformers {version}; our own keys are compared below")
    assert NOW == WRITTEN, _WAY_OUT


def test_our_keys_are_those_of_the_code_with_any_version_of_transformers():
    assert len(our_keys()) > 70
    assert outdated(WRITTEN) == set(), _WAY_OUT


def test_a_key_that_is_added_or_changed_is_noticed():
    row = next(line for line in WRITTEN.splitlines() if line.startswith("| `sigreg_weight` "))
    assert outdated(WRITTEN.replace(f"{row}\n", "")) == {"sigreg_weight"}
    assert outdated(WRITTEN.replace(row, row.replace("0.05", "0.07"))) == {"sigreg_weight"}


def test_every_key_of_the_help_is_there():
    assert rows_of(NOW).keys() == {name for keys in describe_keys().values() for name in keys}
