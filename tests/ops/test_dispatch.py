import logging
import os
import subprocess
import sys

import pytest
import torch

from lejepa_hf.ops import dispatch, epps_pulley_eager, epps_pulley_reference


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("LEJEPA_OPS", raising=False)
    for picked in (dispatch._pick, dispatch._pick_photometric):
        picked.cache_clear()
    yield
    for picked in (dispatch._pick, dispatch._pick_photometric):
        picked.cache_clear()


def test_picks_by_name():
    assert dispatch.operators("reference") is epps_pulley_reference
    assert dispatch.operators("eager", "cuda:1") is epps_pulley_eager
    assert dispatch.operators() is epps_pulley_eager


def test_the_environment_decides_for_auto_alone(monkeypatch):
    monkeypatch.setenv("LEJEPA_OPS", "reference")
    assert dispatch.operators() is epps_pulley_reference
    assert dispatch.operators("eager") is epps_pulley_eager


def test_says_once_which_and_why(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        for _ in range(3):
            dispatch.operators()
        monkeypatch.setenv("LEJEPA_OPS", "reference")
        dispatch.operators()
    assert caplog.messages == [
        "SIGReg runs on its eager operator on cpu: the fused kernels need CUDA.",
        "SIGReg runs on its reference operator on cpu: `LEJEPA_OPS` says so.",
    ]


def test_colours_run_one_by_one_on_a_cpu(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        for _ in range(2):
            assert dispatch.photometric_kernels(torch.device("cpu"), 13, broken) is None
        monkeypatch.setenv("LEJEPA_OPS", "eager")
        assert dispatch.photometric_kernels(torch.device("cuda"), 13, broken) is None
    assert caplog.messages == [
        "Colours and blur run on cpu one by one: the fused kernels need CUDA.",
        "Colours and blur run on cuda one by one: `LEJEPA_OPS` says so.",
    ]


def test_unknown_backend_lists_the_known(monkeypatch):
    with pytest.raises(ValueError, match="`backend` must be one of auto, reference, eager, triton, got 'cuda'"):
        dispatch.operators("cuda")
    monkeypatch.setenv("LEJEPA_OPS", "fast")
    with pytest.raises(ValueError, match="`LEJEPA_OPS` must be one of .*, got 'fast'"):
        dispatch.operators()


@pytest.mark.slow
def test_triton_on_a_cpu_is_refused_with_the_way_out():
    code = "from lejepa_hf.ops import dispatch; dispatch.operators('triton', 'cpu')"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "`backend` is 'triton', but Triton" in done.stderr and "use 'auto' or 'eager'" in done.stderr


def wrong(projections, directions, rule, redraw=None):
    return 1.01 * epps_pulley_eager.deviation_sums(projections, directions, rule, redraw)


def broken(projections, directions, rule, redraw=None):
    raise RuntimeError("out of shared memory\nand a long trace")


def silent(projections, directions, rule, redraw=None):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("operator", "problem"),
    [
        (epps_pulley_eager.deviation_sums, None),
        (wrong, "AssertionError"),
        (broken, "RuntimeError: out of shared mem"),
        (silent, "NotImplementedError"),
    ],
)
def test_a_kernel_is_tried_before_it_is_believed(monkeypatch, operator, problem):
    class Kernels:
        deviation_sums = staticmethod(operator)
        mean_statistic = staticmethod(epps_pulley_eager.mean_statistic)

    monkeypatch.setattr(dispatch, "_triton", lambda: Kernels)
    found = dispatch._trial("cpu")
    assert found is None if problem is None else problem in found and "\n" not in found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_runs_the_fused_kernels():
    from lejepa_hf.ops import epps_pulley_triton

    assert dispatch.operators("auto", "cuda") is epps_pulley_triton
