"""Reading a remote source through lost connections."""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from ..system.error_text import with_causes
from .errors import StreamInterrupted

logger = logging.getLogger("lejepa_hf")

MAX_RETRIES = 8  # four minutes
_RESUME = "Continue with `--resume` when the network is back."
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
# Errors are recognised by the library that defines their classes, since none of these libraries must be installed.
_NETWORK_LIBRARIES = ("aiohttp", "httpcore", "httpcore2", "httpx", "httpx2", "requests", "urllib3")
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_NETWORK_ERRNO = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT)

Item = TypeVar("Item")


def is_network_error(failure: BaseException) -> bool:
    """Whether trying again may help: lost connections, timeouts, busy servers, but not a missing file."""
    for error in with_causes(failure):
        status = status_of(error)
        if status is not None and status >= 400:
            return status in _PASSING_STATUS
        lost = isinstance(error, OSError) and error.errno in _NETWORK_ERRNO
        if lost or isinstance(error, ConnectionError | TimeoutError):
            return True
        if any(kind.__module__.split(".")[0] in _NETWORK_LIBRARIES for kind in type(error).__mro__):
            return True
    return False


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of any web client carries, of the Hub's or of aiohttp."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def read_through(
    open_items: Callable[[], Iterator[Item]], name: str, max_retries: int = MAX_RETRIES, way_out: str = _RESUME
) -> Iterator[Item]:
    """
    Read the items of a remote source; after a lost connection, continue with the next item.

    Args:
        open_items (`Callable`): Opens the source at its beginning; called again after each loss.
        name (`str`): Name of the source, for messages.
        max_retries (`int`, *optional*, defaults to 8): Retries without an item between them, after 1, 2, 4, ... 60 s.
        way_out (`str`, *optional*): What the user can do after the last retry; if missing, resume training.

    Raises:
        StreamInterrupted: If the last retry fails too. Errors that a retry cannot mend are raised as they are.
    """
    done = retries = 0
    while True:
        try:
            for item in islice(open_items(), done, None):
                done, retries = done + 1, 0
                yield item
            return
        except Exception as error:  # noqa: PERF203, once per connection, not once per item
            if not is_network_error(error):
                raise
            # Addresses of a storage behind the Hub carry a signature, which is a secret.
            reason = re.sub(r"\?[^\s'\"]+", "?...", " ".join(f"{type(error).__name__} {error}".split()))
            if retries == max_retries:
                tried = f"the connection was lost and {max_retries} retries did not bring it back ({reason})"
                raise StreamInterrupted(f"{name}: {tried}. {way_out}") from error
            wait = min(_FIRST_WAIT * 2**retries, _LONGEST_WAIT)
            retries += 1
            logger.warning(f"{name}: {reason}; retry {retries} of {max_retries} in {wait:.2g} s")
            time.sleep(wait)
