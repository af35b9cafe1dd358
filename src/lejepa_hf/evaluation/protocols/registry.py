"""The protocols by name."""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import fields

from .protocol import OnEmbeddings, Protocol

# Name: file in this folder and class. Loaded when first needed.
PROTOCOLS = {
    "linear": "linear_probe.Linear",
    "knn": "knn.Knn",
    "few-shot": "few_shot.FewShot",
    "logistic": "logistic_regression.Logistic",
    "retrieval": "retrieval.Retrieval",
    "fine-tune": "fine_tuning.FineTune",
    "segmentation": "segmentation.Segmentation",
}


def protocol_class(name: str) -> type[Protocol]:
    """The class of a protocol that is in `PROTOCOLS`."""
    return pkgutil.resolve_name(f"{__package__}.{PROTOCOLS[name]}")


def check_protocols(protocols: Sequence[str], at_the_end_of_training: bool = False) -> None:
    """
    Refuse unknown names of protocols, and at the end of training those that need more than embeddings: there,
    baselines without an encoder are evaluated too.
    """
    known = [
        name for name in PROTOCOLS if not at_the_end_of_training or issubclass(protocol_class(name), OnEmbeddings)
    ]
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"`protocols` {', '.join(unknown)} unknown; known are {', '.join(known)}.")
    if later := [name for name in protocols if name not in known]:
        raise ValueError(
            f"`eval_protocols` {', '.join(later)} cannot run at the end of training: use `lejepa evaluate` after the "
            f"run, or any of {', '.join(known)}."
        )


def make_protocols(protocols: Sequence[str | Protocol], settings: Mapping[str, object]) -> list[Protocol]:
    """
    Build protocols from their names, each with the settings that it has; None stands for the default.
    Built protocols are returned as they are. A setting that no protocol has is an error.
    """
    check_protocols([protocol for protocol in protocols if isinstance(protocol, str)])
    given = {name: value for name, value in settings.items() if value is not None}
    known = {field.name for protocol in PROTOCOLS if given for field in fields(protocol_class(protocol))}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"`{unknown[0]}` is not a setting of any protocol; known are {', '.join(sorted(known))}.")
    return [_make(protocol, given) if isinstance(protocol, str) else protocol for protocol in protocols]


def _make(name: str, given: dict[str, object]) -> Protocol:
    kind = protocol_class(name)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
