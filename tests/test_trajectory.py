"""Several processes must train exactly what one trains on the same global batches."""

import json

import pytest
import trajectory_run
from processes import run_script

SCRIPT = trajectory_run.Path(trajectory_run.__file__)
SETTINGS = ("1,0", "2,0", "1,1", "2,1")  # micro-batches, activation checkpointing


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "losses.json"
    printed = output.with_name("output.txt")
    codes = run_script(SCRIPT, ["alone", str(output), "1,0", "2,0"], printed, processes=1)
    assert codes == [0], printed.read_text(encoding="utf-8")[-8000:]
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "processes", "settings"),
    [
        ("ddp", 2, SETTINGS),
        ("fsdp", 2, SETTINGS),
        ("ddp", 4, ["1,0"]),
        ("fsdp", 4, ["2,1"]),
    ],
)
def test_losses_are_those_of_one_process(two_processes, tmp_path, alone, kind, processes, settings):
    two_processes(SCRIPT, kind, str(tmp_path / "losses.json"), *settings, processes=processes)
    together = json.loads((tmp_path / "losses.json").read_text(encoding="utf-8"))
    assert list(together) == list(settings)
    for setting, rows in together.items():
        expected = alone[f"{setting[0]},0"]  # checkpointing changes what is kept, not what is computed
        assert len(rows) == len(expected) == trajectory_run.STEPS
        # Rounding grows tenfold in four steps, on some processors to 2e-4 in the end; with `sigreg_weight` off by 2 %
        # the third row differs by 2e-3.
        for step, (row, reference) in enumerate(zip(rows, expected, strict=True)):
            assert row == pytest.approx(reference, rel=1e-4 if step < 10 else 2e-3)
    assert expected[0] != pytest.approx(expected[-1], rel=0.1)  # something was learnt
