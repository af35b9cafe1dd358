"""What the column of labels of a dataset holds: classes, lists of classes, numbers, or masks."""

from typing import Literal, TypeAlias

LabelKind: TypeAlias = Literal["class", "multi-label", "number"]
LABEL_KINDS: tuple[LabelKind, ...] = ("class", "multi-label", "number")
POSSIBLE_LABELS = (
    "labels are integers or texts (classes), lists of them or several columns of 0 and 1 (multi-label), or floats "
    "(numbers)"
)


def kind_of_labels(feature: object) -> LabelKind | None:
    """The kind of labels that a column of this type holds without a choice; None for masks and other types."""
    from datasets import LargeList, List, Value

    from .array_columns import is_array

    if is_class(feature):
        return "class"
    if isinstance(feature, List | LargeList) and not is_array(feature) and is_class(feature.feature):
        return "multi-label"
    return "number" if isinstance(feature, Value) and feature.dtype.startswith(("float", "decimal")) else None


def is_class(feature: object) -> bool:
    """Whether a value of this type names a class: a class number, any other integer, a text, true or false."""
    return is_numbered(feature) or is_text(feature) or _is_value(feature, ("bool",))


def is_numbered(feature: object) -> bool:
    """Whether a column holds integers."""
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel) or _is_value(feature, ("int", "uint"))


def is_text(feature: object) -> bool:
    """Whether a column holds texts."""
    return _is_value(feature, ("string", "large_string"))


def named_columns(text: str | None) -> str | list[str] | None:
    """The columns in a text of a command line, where a comma separates several."""
    return [part.strip() for part in text.split(",")] if text is not None and "," in text else text


def described(feature: object) -> str:
    """A type in a word, for messages."""
    from datasets import Value

    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _is_value(feature: object, beginnings: tuple[str, ...]) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.startswith(beginnings)
