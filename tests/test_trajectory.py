"""Several processes must train exactly what one trains on the same global batches."""

import json
import subprocess
import sys

import pytest
import trajectory_run

SETTINGS = ("1,0", "2,0", "1,1", "2,1")  # micro-batches, activation checkpointing


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "losses.json"
    subprocess.run([sys.executable, trajectory_run.__file__, "alone", str(output), "1,0", "2,0"], check=True)
    return json.loads(output.read_text())


@pytest.mark.parametrize(
    ("kind", "processes", "settings"),
    [
        ("ddp", 2, SETTINGS),
        ("fsdp", 2, SETTINGS),
        pytest.param("ddp", 4, ["1,0"], marks=pytest.mark.slow),
        pytest.param("fsdp", 4, ["2,1"], marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_one_process(two_processes, tmp_path, alone, kind, processes, settings):
    script = trajectory_run.Path(trajectory_run.__file__)
    two_processes(script, kind, str(tmp_path / "losses.json"), *settings, processes=processes)
    together = json.loads((tmp_path / "losses.json").read_text())
    assert list(together) == list(settings)
    for setting, rows in together.items():
        expected = alone[f"{setting[0]},0"]  # checkpointing changes what is kept, not what is computed
        assert len(rows) == len(expected) == trajectory_run.STEPS
        for row, reference in zip(rows, expected, strict=True):
            assert row == pytest.approx(reference, rel=1e-4)
    assert expected[0] != pytest.approx(expected[-1], rel=0.1)  # something was learnt
