"""A headless Chromium that asks nobody but the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator:
    """
    Selenium's driver, with all requests in its `performance` log; the test is skipped where there is none.

    Args:
        profile (`Path`): An empty folder.
    """
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is an extra")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for argument in (*_QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # Both named: selenium downloads what it cannot find.
    started = selenium.Chrome(options, selenium.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()
