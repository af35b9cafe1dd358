import pytest
from images_of_kinds import of_kind

from lejepa_hf.evaluation.protocols.registry import make_protocols
from lejepa_hf.evaluation.protocols.served_labels import check_served, usual_protocols


@pytest.mark.parametrize(
    ("kind", "protocols", "usual"),
    [
        ("class", ["linear", "knn", "fine-tune"], ["linear", "knn"]),
        ("multi-label", ["linear", "logistic"], ["linear"]),
        ("number", ["ridge"], ["ridge"]),
        (None, ["linear", "ridge"], ["linear", "knn"]),
    ],
)
def test_labels_that_protocols_can_use(kind, protocols, usual):
    source = of_kind(kind)
    assert source.label_kind == kind
    check_served(make_protocols(protocols, {}), source)
    assert usual_protocols(source) == usual


@pytest.mark.parametrize(
    ("kind", "protocols", "found"),
    [
        (
            "class",
            ["ridge"],
            r"`protocols` ridge cannot use .* which are single classes: use linear.* `label_kind` to",
        ),
        (
            "multi-label",
            ["linear", "knn", "few-shot"],
            r"`protocols` knn, few-shot .*\(multi-label\): use linear, log",
        ),
        (
            "number",
            ["linear"],
            "`protocols` linear cannot use the labels in `label_column` 'mark'.* numbers: use ridge",
        ),
    ],
)
def test_labels_that_protocols_cannot_use(kind, protocols, found):
    with pytest.raises(ValueError, match=found):
        check_served(make_protocols(protocols, {}), of_kind(kind))
