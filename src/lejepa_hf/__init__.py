"""Pretrain vision encoders with LeJEPA inside the Hugging Face ecosystem. Public names load when first used."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

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
    "apply_photometric": "data.photometric",
    "export_encoder": "hub.export",
    "evaluate_encoder": "evaluation.evaluate_encoder",
}
__all__ = ["__version__", *_HOMES]

# Modules of version 0.1.0 that pages and scripts import by path. Kept for this version.
_MOVED = {
    "lejepa_hf.backbone": "lejepa_hf.model",
    "lejepa_hf.backbone.layers": "lejepa_hf.model.layers",
    "lejepa_hf.hub.pictures.patch_colours": "lejepa_hf.hub.pictures.image_grids",
    "lejepa_hf.recipes": "lejepa_hf.runs.recipes",
    "lejepa_hf.train": "lejepa_hf.runs.pretraining",
}


class _MovedModules(MetaPathFinder, Loader):
    """Lets an old path import the module at its new place, with a warning that names it."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, _MOVED[module.__name__]
        warnings.warn(f"{old} is now {new}.", FutureWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)

    def get_code(self, fullname: str) -> CodeType:
        """What `python -m` runs: the module at its new place."""
        run = f"import runpy\nrunpy.run_module({_MOVED[fullname]!r}, run_name='__main__', alter_sys=True)"
        return compile(run, fullname, "exec")


sys.meta_path.insert(0, _MovedModules())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
