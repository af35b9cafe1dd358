"""The table in docs/backbones.md, from the reports of tests/test_backbone_matrix.py."""

import json
from collections import Counter
from importlib.metadata import version

_HEADER = """# Backbones that were tried

`make test-all` writes this page. Each architecture, as a small config, took two optimiser steps at two crop sizes,
with a finite loss and a gradient for every parameter that its embedding depends on. It was then exported, and loaded
by `AutoModel` in a process that cannot import lejepa-hf. The last column is the largest difference between the
embeddings before and after. Where the crops taken (global, local) differ from those asked for, the backbone does not
accept the latter.
"""


def format_table(reports: list) -> str:
    """
    Args:
        reports (`list[TestReport]`): Of the tests, each with its row in `user_properties`.

    Returns:
        `str`: Markdown.
    """
    rows = [json.loads(value) for report in reports for name, value in report.user_properties if name == "backbone"]
    failed = [report for report in reports if report.failed]
    rows.sort(key=lambda row: (row["family"].startswith("timm"), row["family"], row["name"]))
    passed = [row for row in rows if "reason" not in row]
    families = Counter(row["family"] for row in passed)
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "timm", "torch"))
    lines = [
        _HEADER,
        f"{len(passed)} passed ({versions}): "
        + "; ".join(f"{name} {families[name]}" for name in sorted(families))
        + ".\n",
        "| family | architecture | embedding | width | crops asked for | crops taken | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in passed:
        asked, taken = ("{}, {}".format(*row[name]) for name in ("asked", "sizes"))
        cells = (row["family"], row["name"], row["pooling"], row["dim"], asked, taken, f"{row['difference']:.1e}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["\n## What cannot be trained, and why\n"]
    lines += [f"- {row['name']}: {row['reason']}" for row in rows if "reason" in row]
    lines += [f"- {report.nodeid.split('[')[-1].rstrip(']')}: failed in this run" for report in failed]
    return "\n".join(lines) + "\n"
