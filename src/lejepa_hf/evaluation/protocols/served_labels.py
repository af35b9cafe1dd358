"""Which protocols can use which kind of labels."""

from collections.abc import Sequence

from ...data.image_source import ImageSource
from ...data.label_kinds import LabelKind
from .protocol import Protocol
from .registry import PROTOCOLS, protocol_class

USUAL: dict[LabelKind, list[str]] = {"class": ["linear", "knn"], "multi-label": ["linear"], "number": ["ridge"]}
_MEANING = {"class": "single classes", "multi-label": "lists of classes (multi-label)", "number": "numbers"}


def usual_protocols(source: ImageSource, of_classes: Sequence[str] = tuple(USUAL["class"])) -> list[str]:
    """The protocols for the labels of a source without a choice; `of_classes` for class numbers, texts and masks."""
    kind = source.label_kind
    return list(of_classes) if kind in (None, "class") else USUAL[kind]


def check_served(chosen: Sequence[Protocol], source: ImageSource) -> None:
    """Refuse protocols that cannot use the labels of a source; the message names those that can."""
    kind = source.label_kind
    unable = [one.name for one in chosen if kind is not None and one.labels != "masks" and kind not in one.kinds]
    if kind is None or not unable:
        return
    able = [
        name for name in PROTOCOLS if protocol_class(name).labels != "masks" and kind in protocol_class(name).kinds
    ]
    hint = {
        "class": "; for integers that are no classes set `label_kind` to number",
        "number": "; for numbers that are classes set `label_kind` to class",
    }.get(kind, "")
    raise ValueError(
        f"`protocols` {', '.join(unable)} cannot use the labels in `label_column` {source.label_column!r} of "
        f"`dataset` {source.name!r}, which are {_MEANING[kind]}: use {', '.join(able)}{hint}."
    )
