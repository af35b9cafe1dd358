import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from error_line import one_line
from processes import Script

import lejepa_hf
from lejepa_hf.cli import main
from lejepa_hf.hub.export import export_encoder


def test_train_is_the_script(capsys):
    assert main(["train", "recipes/no/such.yaml"]) == 2
    assert "No recipe 'recipes/no/such.yaml'" in one_line(capsys.readouterr().err)


def test_an_interrupt_before_the_run_is_one_line(monkeypatch, capsys):
    class Interrupt:
        """Stands before the other finders of modules, as Ctrl+C while torch is imported."""

        def find_spec(self, name, *_):
            if name == "lejepa_hf.runs.pretraining":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lejepa_hf.runs.pretraining", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    assert main(["train", "digits/resnet_tiny"]) == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["evaluate", "encoder"]])
def test_unknown_commands_end_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: lejepa" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--train_split", "--train-split", "--dataset-config=a-b", "--max-image-pixels"])
def test_options_may_have_dashes(option, capsys):
    """The value is refused as such, so the option was understood."""
    value = [] if "=" in option else ["1"]
    assert main(["evaluate", "no/such/encoder", "--dataset", "/no-such/folder", option, *value]) == 2
    assert "`dataset` '/no-such/folder'" in one_line(capsys.readouterr().err)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"lejepa-hf {lejepa_hf.__version__}\n"


@pytest.mark.slow
def test_console_script_explains_itself():
    script = shutil.which("lejepa", path=str(Path(sys.executable).parent))
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for command in ("train", "evaluate", "embed", "export", "push", "report", "select", "statistics"):
        assert command in done.stdout
    failed = subprocess.run([script, "export", "/no/such/run"], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2
    assert "'/no/such/run' holds neither" in one_line(failed.stderr)


@pytest.mark.slow
def test_an_interrupt_ends_in_one_line_and_keeps_what_is_done(run, tmp_path):
    command, out = tmp_path / "command.py", tmp_path / "embeddings.parquet"
    command.write_text("import sys\nfrom lejepa_hf.cli import main\nsys.exit(main())\n")
    arguments = ["embed", "digits", "--model", export_encoder(run), "--out", out, "--batch_size", "1"]
    process = Script(command, arguments, tmp_path / "output.txt")
    while not (tmp_path / "embeddings.parquet.parts" / "settings.json").exists():
        assert process.poll() is None, (tmp_path / "output.txt").read_text(encoding="utf-8")
        time.sleep(0.01)
    time.sleep(0.2)  # some rows, of 1347
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    printed = (tmp_path / "output.txt").read_text(encoding="utf-8")
    assert printed.rstrip().endswith("\ninterrupted") and "Traceback" not in printed
    assert not out.exists() and list(tmp_path.glob("*.parts/part-*.parquet"))
