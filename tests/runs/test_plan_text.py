from dataclasses import replace

import pytest

from lejepa_hf.runs.measurement import Measurement
from lejepa_hf.runs.plan import Plan, ViewPlan
from lejepa_hf.runs.plan_text import format_plan

GIB = 1 << 30
MEASURED = Measurement(8, 100.0, 0.6, GIB, GIB // 2, 2 * GIB, GIB, fits=True)
PLAN = Plan(
    source="digits", images=1347, steps=20, batch=8, global_batch=16, processes=2,
    views=[ViewPlan("global", 2, 16, 17), ViewPlan("local", 6, 8, 5)],
    encoder_parameters=1000, projector_parameters=200, flops_per_image=2e9, state_bytes=GIB, activation_bytes=GIB,
    view_bytes=GIB, device="cuda", device_bytes=4 * GIB, workers=4, measured=MEASURED,
)  # fmt: skip


def measured(**values) -> Plan:
    return replace(PLAN, measured=replace(MEASURED, **values))


def test_rows():
    text = format_plan(PLAN)
    for part in ("digits: 1,347", "20 steps of 16 images, 2 process(es)", "2 x 16 px (17 tokens each)", "64 tokens",
                 "encoder 1,000, projector 200", "2.0 GFLOP", "200 images/s, 60% of the time waiting for views",
                 "2.0 GiB of 4.0 GiB, 1.0 GiB of it allocated at once, measured in a dry run",
                 "512 MiB each of its 4 workers"):  # fmt: skip
        assert part in text, part


def test_estimates_are_called_so():
    assert "estimated from 4 images per step" in format_plan(measured(batch=4))
    text = format_plan(measured(batch=0))
    assert ", estimated\n" in text and "There was no dry run" in text


def test_a_stream_of_unknown_length():
    text = format_plan(replace(PLAN, images=None))
    assert "a stream of unknown length" in text and "unknown" in text and "passes over" not in text


@pytest.mark.parametrize(
    ("plan", "verdict"),
    [
        (PLAN, "will wait for data 60% of the time: it needs 10 workers, not 4"),
        (measured(data_wait_fraction=0.0), "The data keep up"),
        (replace(PLAN, workers=0), "Views are cut between steps, 60%"),
        (replace(PLAN, device="cpu"), "share the CPU"),
        (measured(fits=False), "It does not fit: lower `per_device_train_batch_size`"),
    ],
)
def test_verdict(plan, verdict):
    assert verdict in format_plan(plan).splitlines()[-1]
