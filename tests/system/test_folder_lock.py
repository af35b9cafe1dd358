"""A folder that one process at a time writes to: real processes, real kills."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from lejepa_hf.system.folder_lock import clear_folder, locked_folder
from lejepa_hf.system.run_folder import RunFolder

HOLD = """
import os, sys, time
from lejepa_hf.system.folder_lock import locked_folder
with locked_folder(sys.argv[1], "`out`"):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the folder."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert int(process.stdout.readline()) == process.pid
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_folder_in_use_is_refused_with_who_uses_it(hold, tmp_path):
    holder = hold()
    with (
        pytest.raises(ValueError, match=f"process {holder.pid} on {socket.gethostname()} since 20"),
        locked_folder(tmp_path / "run", "`out`"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"`output_dir` .*/run' is being written by process .*another `output_dir`"),
        RunFolder(tmp_path / "run").held(),
    ):
        pass
    holder.kill()
    holder.wait()
    with locked_folder(tmp_path / "run", "`out`"):
        assert json.loads((tmp_path / "run" / ".lock_holder.json").read_text())["process"] == os.getpid()


def test_what_a_killed_process_had_started_holds_nothing(hold, tmp_path):
    holder = hold("with a child that lives on")
    holder.kill()
    holder.wait()
    with locked_folder(tmp_path / "run", "`out`"):
        pass


def test_who_holds_a_folder_may_hold_it_again(tmp_path):
    with locked_folder(tmp_path, "`out`"), RunFolder(f"{tmp_path}/../{tmp_path.name}").held():
        (tmp_path / "kept").touch()
    with locked_folder(tmp_path, "`out`"):
        pass
    assert not (tmp_path / ".lock_holder.json").exists() and (tmp_path / "kept").exists()


def test_a_folder_that_got_no_files_is_removed(tmp_path):
    with locked_folder(tmp_path / "run", "`out`"):
        pass
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with locked_folder(tmp_path / "empty", "`out`"):
        pass
    assert (tmp_path / "empty").is_dir(), "that of the user stays"


def test_an_error_is_not_hidden_where_the_folder_was_deleted_meanwhile(tmp_path):
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "run", "`out`"):
        shutil.rmtree(tmp_path / "run")
        raise ZeroDivisionError
    with locked_folder(tmp_path / "run", "`out`"):
        pass


@pytest.mark.parametrize("content", ["[]", '{"host": 1}', '{"process": "x", "host": "a", "since": "b"}', '{"proc'])
def test_a_note_of_the_holder_that_cannot_be_read_is_ignored(tmp_path, content):
    (tmp_path / ".lock_holder.json").write_text(content)
    with locked_folder(tmp_path, "`out`"):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"`output_dir` .*file/run' cannot be written to"),
        RunFolder(tmp_path / "file" / "run").held(),
    ):
        pass


def test_a_folder_in_use_is_waited_for(hold, tmp_path, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    holder, held = hold(), threading.Event()

    def wait():
        with locked_folder(tmp_path / "run", "`cache_dir`", wait=True):
            held.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    while "waiting for it" not in caplog.text:
        assert waiting.is_alive()
        time.sleep(0.01)
    assert f"`cache_dir` '{tmp_path}/run' is being written by process {holder.pid} on" in caplog.text
    assert not held.is_set()
    holder.kill()
    waiting.join(60)
    assert held.is_set() and (tmp_path / "run").is_dir(), "others may wait for the same folder"


def test_a_cleared_folder_stays_held(tmp_path):
    with locked_folder(tmp_path, "`out`"):
        (tmp_path / "folder").mkdir()
        for name in ("folder/file", "file", "kept"):
            (tmp_path / name).touch()
        clear_folder(tmp_path, keep=["kept"])
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock_holder.json", "kept"]


def test_who_waits_does_so_for_another_thread(tmp_path):
    order = []

    def second() -> None:
        with locked_folder(tmp_path / "cache", "`cache_dir`", wait=True):
            order.append("second")

    with locked_folder(tmp_path / "cache", "`cache_dir`", wait=True):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_lock_whose_holder_cannot_be_written_is_released(tmp_path):
    (tmp_path / "run" / ".lock_holder.json").mkdir(parents=True)
    for _ in range(2):
        with (
            pytest.raises(ValueError, match="`out` .* cannot be written to .*choose another `out`"),
            locked_folder(tmp_path / "run", "`out`"),
        ):
            pass
    (tmp_path / "run" / ".lock_holder.json").rmdir()
    with locked_folder(tmp_path / "run", "`out`", wait=True):
        pass
