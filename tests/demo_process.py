"""Demos in processes of their own, and encoders for them."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from processes import Script
from transformers import AutoConfig, AutoModel

from lejepa_hf.hub.export import build_processor


def encoder_folder(folder: Path, config: dict, channels: int = 3) -> str:
    """An untrained encoder of 16 pixels with its processor."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)
    mean = None if channels == 3 else [0.5] * channels
    build_processor(16, crop_ratio=1.0, image_mean=mean).save_pretrained(folder)
    return str(folder)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running_demo(command: list[str], port: int, output: Path, seconds: float = 120, **settings) -> Iterator[str]:
    """
    A process that serves a page, until the block ends; then it is interrupted as by Ctrl+C, and must end in order.

    Args:
        command (`list[str]`): What to run.
        port (`int`): Where it will listen.
        output (`Path`): For what it says.
        seconds (`float`, *optional*): Until it must be there.
        **settings: Of `subprocess.Popen`.

    Returns:
        `Iterator[str]`: The page's address.
    """
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **settings)
    with _until_interrupted(process, port, output, seconds) as url:
        yield url


@contextmanager
def prepared_demo(arguments: list, output: Path, seconds: float = 120) -> Iterator[str]:
    """`running_demo` of `lejepa demo` with these arguments, in a process that has imported already: it starts soon."""
    output.touch()
    port = free_port()
    process = Script(Path(__file__).with_name("demo_run.py"), [*arguments, "--port", port], output)
    with _until_interrupted(process, port, output, seconds) as url:
        yield url


@contextmanager
def _until_interrupted(process: subprocess.Popen | Script, port: int, output: Path, seconds: float) -> Iterator[str]:
    url, started = f"http://127.0.0.1:{port}", f"The demo is at http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + seconds
        # It may answer before that, but not be interrupted in order.
        while started not in output.read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < end, output.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.2)
        yield url
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 0, output.read_text(encoding="utf-8")[-4000:]
    finally:
        process.kill()
        process.wait()


def without(*names: str) -> dict[str, str]:
    """This process's environment without some variables."""
    return {name: value for name, value in os.environ.items() if name not in names}
