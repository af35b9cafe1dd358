"""Picks an implementation of the operators, once for each kind of device, and logs which one and why."""

import functools
import importlib
import logging
import os
from collections.abc import Callable
from types import ModuleType

import torch

from . import epps_pulley_eager, epps_pulley_reference

logger = logging.getLogger("lejepa_hf")

BACKENDS = ("auto", "reference", "eager", "triton")
PhotometricTrial = Callable[[ModuleType, torch.device, int], None]


def operators(backend: str = "auto", device: torch.device | str = "cpu") -> ModuleType:
    """
    The implementation to use: a module with `deviation_sums` and `mean_statistic`, None where sums are faster.

    `backend` is `"reference"`, `"eager"`, `"triton"` or `"auto"`. The last one takes the backend in the environment
    variable `LEJEPA_OPS`; if that is not set, Triton on CUDA where it runs and agrees with eager, else eager. See
    [`~ops.epps_pulley_reference.deviation_sums`] and [`~ops.epps_pulley_eager.mean_statistic`].
    """
    backend, source = _asked_for(backend)
    return _pick(backend, torch.device(device).type, source)


@torch.compiler.disable
def photometric_kernels(device: torch.device, num_taps: int, trial: PhotometricTrial) -> ModuleType | None:
    """
    [`ops.photometric_triton`] where it is to be used, else None: on CUDA where it runs and passes its trial, unless
    `LEJEPA_OPS` is `"reference"` or `"eager"`. `trial` gets the module, the device and the width of the blur's kernel,
    and raises an error if the kernels are wrong.
    """
    backend, source = _asked_for("auto")
    return _pick_photometric(backend, device, source, num_taps, trial)


def _asked_for(backend: str) -> tuple[str, str]:
    """The backend, and who named it."""
    source = "`backend`"
    if backend == "auto" and os.environ.get("LEJEPA_OPS"):
        backend, source = os.environ["LEJEPA_OPS"], "`LEJEPA_OPS`"
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    return backend, source


@functools.lru_cache(maxsize=32)
def _pick_photometric(
    backend: str, device: torch.device, source: str, num_taps: int, trial: PhotometricTrial
) -> ModuleType | None:
    kernels, problem = None, None
    if backend in ("reference", "eager"):
        problem = f"{source} says so"
    elif backend == "auto" and device.type != "cuda":
        problem = "the fused kernels need CUDA"
    elif (problem := _why_not_triton(device.type)) is None:
        kernels = importlib.import_module(".photometric_triton", __package__)
        problem = _problem(lambda: trial(kernels, device, num_taps))
    if problem and backend == "triton":
        raise ValueError(f"{source} is 'triton', but {problem}: use 'auto' or 'eager'.")
    how = f"one by one: {problem}" if problem else "in fused kernels, which run here and agree with the operations"
    logger.info(f"Colours and blur run on {device.type} {how}.")
    return None if problem else kernels


@functools.lru_cache(maxsize=32)
def _pick(backend: str, device_type: str, source: str) -> ModuleType:
    if backend == "auto":
        backend, reason = _best(device_type)
    else:
        reason = f"{source} says so"
        if backend == "triton" and (problem := _why_not_triton(device_type)):
            raise ValueError(f"{source} is 'triton', but {problem}: use 'auto' or 'eager'.")
    logger.info(f"SIGReg runs on its {backend} operator on {device_type}: {reason}.")
    if backend == "triton":
        return _triton()
    return {"reference": epps_pulley_reference, "eager": epps_pulley_eager}[backend]


def _best(device_type: str) -> tuple[str, str]:
    if device_type != "cuda":
        return "eager", "the fused kernels need CUDA"
    problem = _why_not_triton(device_type) or _trial(device_type)
    return ("eager", problem) if problem else ("triton", "the fused kernels run here and agree with the eager one")


def _triton() -> ModuleType:
    return importlib.import_module(".epps_pulley_triton", __package__)


def _why_not_triton(device_type: str) -> str | None:
    try:
        interpreted = _triton().INTERPRETED
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None if device_type == "cuda" or interpreted else f"Triton compiles for CUDA, not for {device_type}"


def _trial(device_type: str) -> str | None:
    """Why the fused kernels cannot be used here, or None if they agree with the eager operator on a sample."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 70, 20, generator=generator).to(device_type)
    directions = torch.randn(20, 40, generator=generator).to(device_type)
    rule = epps_pulley_reference.quadrature(17, 3.0, sample.device)

    def compare() -> None:
        found = []
        with torch.enable_grad(), torch.autocast(device_type, enabled=False):
            for operators in (epps_pulley_eager, _triton()):
                of_one: list[torch.Tensor] = []
                for operator in (operators.deviation_sums, operators.mean_statistic):
                    leaf = sample.clone().requires_grad_()
                    value = operator(leaf, directions, rule)
                    of_one += [value.detach(), *torch.autograd.grad(value.square().sum(), leaf)]
                found.append(of_one)
        for expected, other in zip(*found, strict=True):
            torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())

    return _problem(compare)


def _problem(trial: Callable[[], None]) -> str | None:
    """
    What a trial of fused kernels raises, in one line, or None.

    They may be compiled by a version of Triton or for hardware that they were never tested with.
    """
    try:
        trial()
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernels, and training would need more
    except Exception as error:  # noqa: BLE001, whatever the compiler raises, the run continues without these kernels
        first_line = str(error).partition("\n")[0][:200]
        return f"the fused kernels failed their trial ({type(error).__name__}: {first_line})"
    return None
