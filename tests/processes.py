"""
Real processes that have imported already: each is forked from a server that did nothing else, and joins its ranks over
gloo by the variables that torchrun sets. The launchers themselves are tested in test_launch.py and test_preemption.py.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(
    ["datasets", "lejepa_hf.trainer", "lejepa_hf.data.sources", "transformers.trainer", "torch._dynamo"]
)


def _main(script: str, arguments: list[str], variables: dict[str, str], output: str, method: str) -> None:
    # That of this process would be the server's, and data workers would import everything again.
    multiprocessing.set_start_method(method, force=True)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    os.environ.update(variables)
    sys.argv = [script, *arguments]
    torch.set_num_threads(1)
    runpy.run_path(script, run_name="__main__")


def run_script(script: Path, arguments: list[str], output: Path, processes: int, timeout: float = 200) -> list[int]:
    """
    Run a script in so many ranks. When one of them fails, the others are ended, as launchers do.

    Returns:
        `list[int]`: Exit codes by rank, negative for signals; what was printed is in `output`.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    output.write_text("", encoding="utf-8")
    ranks = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | shared if processes > 1 else {}
        values = (str(script), [*map(str, arguments)], own, str(output), multiprocessing.get_start_method())
        ranks.append(FRESH.Process(target=_main, args=values))
        ranks[-1].start()
    end = time.monotonic() + timeout
    while running := [rank for rank in ranks if rank.exitcode is None]:
        wait([rank.sentinel for rank in running], timeout=1)
        if any(rank.exitcode not in (None, 0) for rank in ranks) or time.monotonic() > end:
            time.sleep(1 if time.monotonic() < end else 0)  # the others may have something to say
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.join()
    return [rank.exitcode for rank in ranks]
