"""Progress bars in a terminal or a notebook; elsewhere, as in a log file, a line a minute for what takes long."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import is_in_notebook, logging

from .quiet import is_quiet

_MINUTE = 60.0
_hidden: ContextVar[bool] = ContextVar("progress bars are hidden", default=False)


def are_hidden() -> bool:
    """Whether nobody wants to see bars."""
    return _hidden.get() or is_quiet()


def are_drawn() -> bool:
    """Whether a bar that is drawn again and again can be seen."""
    return not are_hidden() and (sys.stderr.isatty() or is_in_notebook())


def progress_bar(iterable: Iterable | None = None, **settings: Any) -> tqdm:  # noqa: ANN401
    """A `tqdm` bar on stderr, cleared at its end; `settings` are its own: `desc`, `total`, `unit`."""
    if not are_drawn():
        settings |= {"disable": are_hidden(), "mininterval": _MINUTE, "delay": _MINUTE}
    return tqdm(iterable, leave=False, **settings)


@contextmanager
def hidden_progress_bars(hidden: bool = True) -> Iterator[None]:
    """Within, if `hidden`, [`progress_bar`] shows nothing, nor do transformers and the Hub's client."""
    token = _hidden.set(hidden or _hidden.get())
    switches_off = hidden and logging.is_progress_bar_enabled()
    if switches_off:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        _hidden.reset(token)
        if switches_off:
            logging.enable_progress_bar()
