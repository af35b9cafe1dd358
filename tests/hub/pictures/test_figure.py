import pytest

from lejepa_hf.hub.pictures.figure import class_name, legible, plain_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tabby cat", "tabby cat"),
        (" two\nlines\t", "two lines"),
        ("猫", "7"),
        ("🐈 cat", "7 cat"),
        ("a\x00b", "7 ab"),
        ("", "7"),
        ("x" * 40, "x" * 29 + "…"),
        ("$5 or $6", r"\$5 or \$6"),
        ("_hidden", "\u200b_hidden"),
        ("Ελλάδα", "Ελλάδα"),
    ],
)
def test_names(name, shown):
    assert legible(name, "7") == shown


def test_names_of_classes():
    names = ["cat", "a name that is long"]
    assert [class_name(label, names, 8) for label in (-1, 0, 1, 2)] == ["-1", "cat", "a name …", "2"]
    assert class_name(1, None) == "1"


def test_matplotlib_draws_dollars_as_they_are():
    from matplotlib.text import Text

    for text in ("$x$", "one $", "$x$ and $y$"):
        assert Text()._preprocess_math(plain_text(text)) == (text, False)
