"""A folder that one process at a time writes to: real processes, real kills."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from lejepa_hf.system.folder_lock import FolderInUse, locked_folder
from lejepa_hf.system.run_folder import RunFolder

HOLD = """
import os, sys, time
from lejepa_hf.system.folder_lock import locked_folder
with locked_folder(sys.argv[1]):
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
        pytest.raises(FolderInUse, match=f"process {holder.pid} on {socket.gethostname()} since 20"),
        locked_folder(tmp_path / "run"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"`output_dir` .*/run' is being written by process .*another `--output_dir`"),
        RunFolder(tmp_path / "run").held(),
    ):
        pass
    holder.kill()
    holder.wait()
    with locked_folder(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock_holder.json").read_text())["process"] == os.getpid()


def test_what_a_killed_process_had_started_holds_nothing(hold, tmp_path):
    holder = hold("with a child that lives on")
    holder.kill()
    holder.wait()
    with locked_folder(tmp_path / "run"):
        pass


def test_who_holds_a_folder_may_hold_it_again(tmp_path):
    with locked_folder(tmp_path), RunFolder(f"{tmp_path}/../{tmp_path.name}").held():
        (tmp_path / "kept").touch()
    with locked_folder(tmp_path):
        pass
    assert not (tmp_path / ".lock_holder.json").exists() and (tmp_path / "kept").exists()


def test_a_folder_that_got_no_files_is_removed(tmp_path):
    with locked_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with locked_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "that of the user stays"


def test_an_error_is_not_hidden_where_the_folder_was_deleted_meanwhile(tmp_path):
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
        raise ZeroDivisionError
    with locked_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("content", ["[]", '{"host": 1}', '{"process": "x", "host": "a", "since": "b"}', '{"proc'])
def test_a_note_of_the_holder_that_cannot_be_read_is_ignored(tmp_path, content):
    (tmp_path / ".lock_holder.json").write_text(content)
    with locked_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"`output_dir` .*file/run' cannot be written to"),
        RunFolder(tmp_path / "file" / "run").held(),
    ):
        pass
