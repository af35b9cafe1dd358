"""Picks the implementation of the characteristic sums."""

from collections.abc import Callable

from . import epps_pulley_eager, epps_pulley_reference

_BACKENDS = {
    "reference": epps_pulley_reference.characteristic_sums,
    "eager": epps_pulley_eager.characteristic_sums,
}


def characteristic_sums(backend: str = "auto") -> Callable:
    """
    The implementation to use.

    Args:
        backend (`str`, *optional*, defaults to `"auto"`): `"auto"`, `"reference"` or `"eager"`.

    Returns:
        `Callable`: `(projections, directions, knots) -> sums`, as [`~ops.epps_pulley_reference.characteristic_sums`].

    Raises:
        ValueError: If `backend` is not one of these.
    """
    chosen = "eager" if backend == "auto" else backend
    if chosen not in _BACKENDS:
        raise ValueError(f"`backend` must be one of auto, {', '.join(_BACKENDS)}, got {backend!r}.")
    return _BACKENDS[chosen]
