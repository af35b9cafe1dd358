"""
Real processes that have imported already: each is forked from a server that did nothing else, and joins its ranks over
gloo by the variables that torchrun sets. The launchers themselves are tested in test_launch_checks.py and
test_pretraining.py.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(
    ["datasets", "lejepa_hf.runs.pretraining", "matplotlib.figure", "transformers.trainer", "torch._dynamo"]
)


def _main(script: str, arguments: list[str], variables: dict[str, str], output: str, method: str, room: int) -> None:
    # That of this process would be the server's, and data workers would import everything again.
    multiprocessing.set_start_method(method, force=True)
    os.setsid()  # a process group, as a terminal gives one, and Ctrl+C, which a shell's background jobs ignore
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    os.environ.update(variables)
    sys.argv = [script, *arguments]
    torch.set_num_threads(1)
    runpy.run_path(script, run_name="__main__")


class Script:
    """
    A script that runs in a process of its own, as `subprocess.Popen` runs a command.

    Args:
        script (`Path`): A Python file.
        arguments (`list`): Of its command line.
        output (`Path`): What it prints is appended here.
        variables (`dict[str, str]`, *optional*): Of its environment, beside those of this process.
        room (`int`, *optional*, defaults to 0): Largest size in bytes of a file that it writes; 0 for no limit.
    """

    def __init__(self, script: Path, arguments: list, output: Path, variables: dict | None = None, room: int = 0):
        values = (str(script), [*map(str, arguments)], variables or {}, str(output))
        self.process = FRESH.Process(target=_main, args=(*values, multiprocessing.get_start_method(), room))
        self.process.start()
        self.pid, self.sentinel, self.kill = self.process.pid, self.process.sentinel, self.process.kill

    def poll(self) -> int | None:
        """The exit code, negative for signals; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float = 200) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        return self.process.exitcode


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
        ranks.append(Script(script, arguments, output, own))
    end = time.monotonic() + timeout
    while running := [rank for rank in ranks if rank.poll() is None]:
        wait([rank.sentinel for rank in running], timeout=1)
        if any(rank.poll() not in (None, 0) for rank in ranks) or time.monotonic() > end:
            time.sleep(1 if time.monotonic() < end else 0)  # the others may print an error as well
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.wait()
    return [rank.poll() for rank in ranks]
