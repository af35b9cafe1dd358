"""The protocols by name."""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from textwrap import shorten
from typing import Any

from .protocol import OnEmbeddings, Protocol

# Name: file in this folder and class. Loaded when first needed.
PROTOCOLS = {
    "linear": "linear_probe.Linear",
    "linear-dinov2": "linear_dinov2.LinearDinov2",
    "attentive": "attentive_probe.Attentive",
    "knn": "knn.Knn",
    "few-shot": "few_shot.FewShot",
    "logistic": "logistic_regression.Logistic",
    "retrieval": "retrieval.Retrieval",
    "ridge": "ridge.Ridge",
    "fine-tune": "fine_tuning.FineTune",
    "fine-tune-long": "fine_tuning.FineTuneLong",
    "segmentation": "segmentation.Segmentation",
    "segmentation-dinov2": "segmentation_dinov2.SegmentationDinov2",
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
    Built protocols are returned as they are. A setting that none of the protocols named has is an error.
    """
    named = [protocol for protocol in protocols if isinstance(protocol, str)]
    check_protocols(named)
    given = {name: value for name, value in settings.items() if value is not None}
    known = {name: _settings_of(name) for name in PROTOCOLS if given}
    for setting in sorted(given):
        owners = [name for name, settings_of_one in known.items() if setting in settings_of_one]
        if not owners:
            every = sorted(set().union(*known.values()))
            raise ValueError(f"`{setting}` is not a setting of any protocol; known are {', '.join(every)}.")
        if not set(owners).intersection(named):
            value = shorten(repr(given[setting]), 60)
            raise ValueError(
                f"`{setting}` {value} is a setting of {', '.join(owners)}, and `protocols` are "
                f"{', '.join(named) or 'built ones'}: leave the setting out, or add one of them."
            )
    return [_make(protocol, given) if isinstance(protocol, str) else protocol for protocol in protocols]


def with_usual(
    settings: Mapping[str, Any], usual: Mapping[str, Any], protocols: Sequence[str | Protocol]
) -> dict[str, Any]:
    """The settings given, and for those that are missing or None the usual ones that a protocol named has."""
    known = {
        setting for name in protocols if isinstance(name, str) and name in PROTOCOLS for setting in _settings_of(name)
    }
    missing = {name: value for name, value in usual.items() if name in known and settings.get(name) is None}
    return {**settings, **missing}


def _settings_of(name: str) -> set[str]:
    return {field.name for field in fields(protocol_class(name))}


def _make(name: str, given: dict[str, object]) -> Protocol:
    kind = protocol_class(name)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
