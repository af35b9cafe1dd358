import pytest

from lejepa_hf.system.error_text import reason_of, with_causes


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("one\ntwo"), "one"), (RuntimeError("\n  first\nsecond"), "first"), (KeyError(), "KeyError")],
)
def test_the_first_line_or_the_type(error, reason):
    assert reason_of(error) == reason


def test_causes_are_what_an_error_was_raised_from_or_after():
    first, second, third = ValueError("first"), KeyError("second"), OSError("third")
    second.__context__, third.__cause__ = first, second
    assert list(with_causes(third)) == [third, second, first]
    assert list(with_causes(None)) == []
