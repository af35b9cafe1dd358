import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from error_line import one_line

from lejepa_hf.cli import main


def test_train_is_the_script(capsys):
    assert main(["train", "recipes/no/such.yaml"]) == 2
    assert "No recipe 'recipes/no/such.yaml'" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["evaluate", "encoder"]])
def test_unknown_commands_end_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: lejepa" in capsys.readouterr().err


def test_console_script_explains_itself():
    script = shutil.which("lejepa", path=str(Path(sys.executable).parent))
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for command in ("train", "evaluate", "embed", "export", "push", "report", "select", "statistics"):
        assert command in done.stdout
    failed = subprocess.run([script, "export", "/no/such/run"], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2
    assert "'/no/such/run' holds neither" in one_line(failed.stderr)
