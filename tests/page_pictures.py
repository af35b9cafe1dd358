"""
Writes the pictures of the pages from three runs, `make pictures PHOTOGRAPHS=RUN`, with Chromium and selenium:

    lejepa train digits/resnet_tiny
    lejepa train digits/vit_tiny --max_steps 200
    lejepa train cifar10/resnet_small --seed 1 --output_dir RUN
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from browser import chromium
from demo_process import free_port, running_demo

DOCS, RUNS = Path(__file__).parent.parent / "docs", Path("runs")
RESNET, VIT = RUNS / "digits-resnet_tiny", RUNS / "digits-vit_tiny"


def write_pictures(photographs: Path) -> None:
    """All of them but those of studies and benchmarks, whose scripts draw them."""
    for run, *names in ((RESNET, "losses", "few_shot", "embeddings", "gaussianity"), (VIT, "pca_maps")):
        for name in names:
            shutil.copy(run / "pictures" / f"{name}.png", DOCS)
    shutil.copy(photographs / "pictures" / "neighbours.png", DOCS / "neighbours_photographs.png")
    port = free_port()
    command = [sys.executable, "-m", "lejepa_hf", "demo", str(VIT), "--dataset", "digits", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_demo(command, port, Path(folder) / "output.txt") as url,
        chromium(Path(folder) / "profile") as browser,
    ):
        photograph_demo(browser, url)


def photograph_demo(browser, url: str) -> None:
    """The page with its fourth example, maps of the finest resolution, and a place that was clicked."""
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector: str):
        return WebDriverWait(browser, 60).until(lambda _: browser.find_elements("css selector", selector))

    browser.set_window_size(1280, 1000)
    browser.get(url)
    find("#examples button img")[3].click()
    find("#neighbours img")
    find("#enlarge input[type=range]")[0].send_keys("\ue014" * 3)  # arrows to the right
    time.sleep(5)  # until the finer maps are there
    find("#seen img")[0].click()
    find("#similar img")
    time.sleep(2)
    browser.set_window_size(1280, browser.execute_script("return document.querySelector('main').scrollHeight") + 160)
    browser.execute_script("window.scrollTo(0, 0); document.documentElement.style.overflow = 'hidden'")
    time.sleep(1)
    browser.save_screenshot(str(DOCS / "demo.png"))


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]))
