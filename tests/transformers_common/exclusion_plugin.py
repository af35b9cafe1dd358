"""A plugin of pytest that skips what does not apply, each test with its reason, and lists the reasons at the end."""

from collections import Counter

import pytest
from exclusions import reason_for

_MARK = "excluded: "


def pytest_configure(config):
    for mark in (
        "accelerate_tests",
        "flash_attn_test",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "torch_compile_test",
    ):
        config.addinivalue_line("markers", f"{mark}: a mark of transformers")


def pytest_collection_modifyitems(items):
    for item in items:
        architecture, model = getattr(item.cls, "names", ("", ""))
        reason = reason_for(item.name, architecture, model)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=_MARK + reason))


def pytest_terminal_summary(terminalreporter):
    excluded, skipped = {}, Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        _, case, test = report.nodeid.split("::")
        if reason.startswith(_MARK):
            excluded.setdefault((test, reason.removeprefix(_MARK)), []).append(case.removeprefix("Test_"))
        else:
            skipped[reason] += 1
    terminalreporter.section("excluded here")
    for (test, reason), cases in excluded.items():
        terminalreporter.write_line(f"{test} ({', '.join(cases)}): {reason}")
    terminalreporter.section("skipped by transformers' tests themselves")
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count} x {reason}")
