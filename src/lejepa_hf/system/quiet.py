"""`--quiet`: warnings, errors and results, and nothing else that is written while a command works."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[bool] = ContextVar("only warnings, errors and results", default=False)


def is_quiet() -> bool:
    """Whether progress bars and lines that only inform are left out."""
    return _quiet.get()


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within, if `quiet`, [`is_quiet`] is true."""
    token = _quiet.set(quiet or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)
