"""What the browser tests share: a Chromium, and a small store whose names, keys and concepts are hostile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from qrp_store.cli.main import call

NASTY = '<img src=x onerror=alert(1)> "q" 🦊 شبكة'
CONCEPTS = ("apple", "<script>alert('pear')</script>", "red & round " + "very " * 2000, "🍇 grape")


class Browser(webdriver.Chrome):
    """Chromium whose navigations end when the new document is complete, its scripts included.

    The driver promises that for `get` and `refresh`. On a busy machine it sometimes returns earlier, while a new
    renderer process is still parsing the document. For a click it promises nothing.
    """

    def get(self, url: str) -> None:
        with self.leaving():
            super().get(url)

    def refresh(self) -> None:
        with self.leaving():
            super().refresh()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Wait at the end until another document than the present one is complete."""
        self.execute_script("window.isLeft = true")
        yield
        arrived = "return window.isLeft !== true && document.readyState === 'complete'"
        WebDriverWait(self, 60, 0.02).until(lambda driver: driver.execute_script(arrived))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = shutil.which("chromedriver")
    assert driver, "no chromedriver: apt-get install chromium chromium-driver"
    running = Browser(options, Service(driver))
    yield running
    running.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small store whose names, keys and concepts are as nasty as they may be."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    keys = [f'<b>{i:03} "🦊".png' for i in range(240)]
    (folder / "images").mkdir()
    for i, key in enumerate(keys):
        colour = np.zeros((64, 64, 3), np.uint8) + np.array([(i % 6) * 40, 200 - (i % 3) * 60, 90], np.uint8)
        Image.fromarray(colour).save(folder / "images" / key)
    folder.joinpath("keys.txt").write_text("".join(f"{key}\n" for key in keys), "utf-8")
    with folder.joinpath("labels.jsonl").open("w", encoding="utf-8") as file:
        for i, key in enumerate(keys):
            for concept, holds in zip(CONCEPTS, (i % 2 == 0, i % 3 == 0, i % 6 == 1, rng.random() < 0.3), strict=True):
                if holds:
                    file.write(
                        json.dumps({"key": key, "concept": concept, "group": f"group {len(concept) % 2}"}) + "\n"
                    )
    run("init", folder)
    for name, noise in ((NASTY, 0.3), ("noisy", 4.0), ("noisier", 8.0)):
        rows = np.eye(6)[np.arange(240) % 6] * 6 + rng.normal(size=(240, 6)) * noise
        np.save(folder / "rows.npy", rows.astype(np.float32))
        source = (str(folder / "rows.npy"), "--keys", str(folder / "keys.txt"))
        run("ingest", folder, *source, "--dataset", "fruit & more", "--backbone", name)
    run("label", folder, str(folder / "labels.jsonl"), "--dataset", "fruit & more", "--concepts", "fruit")
    few = ("--dataset", "fruit & more", "--epochs", "5", "--bootstrap", "50")
    run("evaluate", folder, *few, "-k", "12", "--seed", "0", "--seed", "1", "--ablate")
    run("evaluate", folder, *few, "-k", "6", "--ablate")
    page = folder / "page.html"
    run("report", folder, "--dataset", "fruit & more", "--images", str(folder / "images"), "-k", "12", "-o", str(page))
    return page


def run(command: str, folder: Path, *arguments: str) -> None:
    assert call([command, *arguments, "--store", str(folder / "store"), "--quiet"]) == 0
