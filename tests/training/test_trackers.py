import pytest

from lejepa_hf.training.trackers import check_trackers


@pytest.mark.parametrize("report_to", [None, "none", "all", [], ["none"], "azure_ml"])
def test_what_is_left_to_transformers(report_to):
    check_trackers(report_to)


@pytest.mark.parametrize("report_to", ["dvclive", ["none", "dvclive"]])
def test_a_missing_package_is_named_with_its_installation(report_to):
    with pytest.raises(ValueError, match="`report_to` 'dvclive': its package is not installed: `pip install dvclive`"):
        check_trackers(report_to)


def test_a_package_that_is_there(monkeypatch, tmp_path):
    (tmp_path / "dvclive.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    check_trackers("dvclive")
