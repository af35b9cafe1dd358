"""Pretrain vision encoders with LeJEPA inside the Hugging Face ecosystem. Public names load when first used."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "LeJEPAConfig": "configuration_lejepa",
    "LeJEPAModel": "modeling_lejepa",
    "LeJEPAForPreTraining": "modeling_lejepa",
    "LeJEPATrainer": "trainer",
    "LeJEPATrainingArguments": "training_args",
    "SIGReg": "losses.sigreg",
    "MultiCropTransform": "data.multi_crop",
    "MultiCropCollator": "data.collator",
    "export_encoder": "hub.export",
    "evaluate_encoder": "evaluation.evaluate_encoder",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
