import pytest

from lejepa_hf.system.error_text import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("one\ntwo"), "one"), (RuntimeError("\n  first\nsecond"), "first"), (KeyError(), "KeyError")],
)
def test_the_first_line_or_the_type(error, reason):
    assert reason_of(error) == reason
