"""What a loader's worker does before it begins."""

import contextlib
import ctypes
import os

_M_MMAP_THRESHOLD = -3  # malloc.h


def prepare_worker(worker: int) -> None:
    """
    A `worker_init_fn`.

    Args:
        worker (`int`): Number of the worker, of no concern.
    """
    _keep_large_blocks_apart()
    # Clusters send SIGTERM to the process group of a run. Workers that died of it would take the run along before its
    # checkpoint; in a group of their own they live until the run ends, which they notice.
    with contextlib.suppress(OSError, AttributeError):
        os.setpgid(0, 0)


def _keep_large_blocks_apart() -> None:
    """
    Glibc gives blocks from 1 MiB on back to the system when they are freed.

    By default it raises that limit to 32 MiB as soon as one such block is freed. Batches then lie between the images
    of the shuffle buffer, and the holes they leave double a worker's memory. Without glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
