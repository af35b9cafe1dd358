"""What a loader's worker does about its memory before it begins."""

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h


def keep_large_blocks_apart(worker: int) -> None:
    """
    A `worker_init_fn`: glibc gives blocks from 1 MiB on back to the system when they are freed.

    By default it raises that limit to 32 MiB as soon as one such block is freed. Batches then lie between the images
    of the shuffle buffer, and the holes they leave double a worker's memory. Without glibc nothing is done.

    Args:
        worker (`int`): Number of the worker, of no concern.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
