"""Counters as Linux shows them, in a folder of real files; NVML needs a GPU."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from test_trainer import model_for, trainer_for
from transformers import TrainerCallback

from lejepa_hf.runs.final_evaluation import _energy_kwh
from lejepa_hf.system.energy import EnergyMeter
from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.training import measuring_trainer

CPU = torch.device("cpu")


def zone(folder: Path, name: str, kind: str, microjoules: int, largest: int = 1_000_000_000) -> Path:
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (zone / file).write_text(f"{content}\n", encoding="utf-8")
    return zone


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert meter.joules() == 0
    zone(tmp_path, "intel-rapl:0", "package-0", 7_500_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 99_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 99_000_000)
    assert meter.joules() == pytest.approx(3.5)
    assert meter.joules() == 0  # since the last call


def test_a_counter_that_began_anew(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 99_000_000, largest=100_000_000)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 2_000_000, largest=100_000_000)
    assert meter.joules() == pytest.approx(3.0)


def test_what_nobody_tells_is_not_made_up(tmp_path):
    assert math.isnan(EnergyMeter(CPU, powercap=tmp_path / "nowhere").joules())
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()  # as to those who may not read it, which root always may
    assert math.isnan(EnergyMeter(CPU, powercap=tmp_path).joules())
    assert math.isnan(EnergyMeter(torch.device("mps"), powercap=tmp_path).joules())


def test_packages_of_a_machine_count_once(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meters = [EnergyMeter(CPU, is_first, tmp_path) for is_first in (True, False)]
    zone(tmp_path, "intel-rapl:0", "package-0", 4_000_000)
    assert [meter.joules() for meter in meters] == [4.0, 0.0]


class Meter(TrainerCallback):
    """A step takes 3.6 kJ, a thousandth of a kWh."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_step_end(self, args, state, control, **kwargs):
        zone(self.folder, "intel-rapl:0", "package-0", 3_600_000_000 * state.global_step, 10**13)


@pytest.mark.slow
def test_a_run_and_its_continuation(tmp_path, tiny_resnet, monkeypatch):
    zone(tmp_path / "rapl", "intel-rapl:0", "package-0", 0, 10**13)
    monkeypatch.setattr(measuring_trainer, "EnergyMeter", partial(EnergyMeter, powercap=tmp_path / "rapl"))
    for steps in (3, 6):
        trainer = trainer_for(tmp_path / "run", model_for(tiny_resnet), max_steps=steps, monitors=[], report_to=[])
        trainer.add_callback(Meter(tmp_path / "rapl"))
        trainer.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-3" if steps == 6 else None)
        assert _energy_kwh(RunFolder(tmp_path / "run")) == pytest.approx(steps / 1000)
    assert trainer.energy.source.startswith("the CPUs and what else ran on them")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    known = [json.dumps({key: value for key, value in row.items() if key != "energy_kwh"}) for row in rows[2:]]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join([*known, *map(json.dumps, rows[:2])]) + "\n")
    assert _energy_kwh(RunFolder(tmp_path / "run")) is None  # a part of it was made where nothing told
