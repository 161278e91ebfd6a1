"""Every page of `serve` in a real browser: `make test-browser`. QRP_SCREENSHOTS=FOLDER keeps pictures of the pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

DATASET = "fruit & more"


@pytest.fixture(scope="module")
def site(page: Path) -> Iterator[str]:
    """The address of a server over the store that `page` was made from."""
    program = Path(sys.executable).with_name("qrp-store")
    words = ["serve", "--port", "0", "--store", str(page.parent / "store"), "--images", str(page.parent / "images")]
    running = subprocess.Popen([str(program), *words, "--json"], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    text = ""
    while "}" not in text:
        text += running.stdout.readline()
    yield json.loads(text)["url"].rstrip("/")
    running.terminate()
    running.wait(20)
    running.stdout.close()


@pytest.fixture
def tab(browser: Any, site: str) -> Iterator[Any]:
    """The browser; afterwards no page complained, and none asked another host."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.set_window_size(1280, 900)
    yield browser
    assert [entry for entry in browser.get_log("browser") if "404" not in entry["message"]] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert not [url for url in urls if not url.startswith((site, "data:"))]
    assert browser.execute_script("return window.alerted === undefined")


def look(tab: Any, site: str, path: str, name: str = "") -> str:
    """Open a page and return its text."""
    tab.get(site + path)
    folder = os.environ.get("QRP_SCREENSHOTS")
    if folder and name:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.save_screenshot(str(Path(folder) / f"serve-{name}.png"))
    return str(tab.find_element(By.TAG_NAME, "body").text)


def at(path: str = "") -> str:
    return f"/dataset/{urllib.parse.quote(DATASET, safe='')}{path}"


def follow(tab: Any, selector: str, by: str = By.CSS_SELECTOR) -> None:
    """Click on the first element that matches, and wait for the page that it leads to."""
    with tab.leaving():
        tab.execute_script("arguments[0].click()", tab.find_elements(by, selector)[0])


def shown_pictures(tab: Any) -> int:
    """Scroll to the thumbnails. The number of pictures in view once all of these have loaded; the others are lazy."""
    script = """
      document.querySelector('.thumbnails').scrollIntoView();
      const seen = (e) => { const r = e.getBoundingClientRect(); return r.top < innerHeight && r.bottom > 0; };
      const images = [...document.images].filter(seen);
      return images.every((i) => i.complete && i.naturalWidth > 0) ? images.length : 0"""
    return int(WebDriverWait(tab, 20, 0.05).until(lambda driver: driver.execute_script(script)))


def test_from_the_datasets_to_one_image(tab: Any, site: str) -> None:
    assert DATASET in look(tab, site, "/", "datasets")
    follow(tab, DATASET, By.LINK_TEXT)
    assert "240 images" in tab.find_element(By.TAG_NAME, "main").text
    follow(tab, "Leaderboard", By.LINK_TEXT)
    assert "leads with NMI" in tab.find_element(By.TAG_NAME, "main").text
    follow(tab, "tbody td a[href^='/result/']")
    assert len(tab.find_elements(By.CSS_SELECTOR, "#cards .card")) in (6, 12)
    follow(tab, "#cards .card h3 a")
    pictures = tab.find_elements(By.CSS_SELECTOR, ".thumbnails img")
    assert pictures
    assert shown_pictures(tab)
    follow(tab, ".thumbnails a")
    assert "Nearest images" in tab.find_element(By.TAG_NAME, "main").text


def test_clusters_are_searched_sorted_and_compared(tab: Any, site: str) -> None:
    look(tab, site, at("/leaderboard"), "leaderboard")
    follow(tab, "tbody td a[href^='/result/']")
    everything = len(tab.find_elements(By.CSS_SELECTOR, "#cards .card"))
    tab.find_element(By.NAME, "q").send_keys("apple")
    with tab.leaving():
        tab.find_element(By.NAME, "q").submit()
    assert 0 < len(tab.find_elements(By.CSS_SELECTOR, "#cards .card")) <= everything
    with tab.leaving():  # the form submits itself
        Select(tab.find_element(By.NAME, "with")).select_by_index(1)
    assert tab.find_elements(By.CSS_SELECTOR, "#cards .pair")


def test_sql_and_an_address_that_leads_nowhere(tab: Any, site: str) -> None:
    text = look(tab, site, f"/sql?q={urllib.parse.quote('SELECT backbone, nmi FROM results')}", "sql")
    assert "rows. Download as CSV or Parquet." in text.replace("\n", " ")
    assert "no dataset" in look(tab, site, "/dataset/nothing")


def test_hostile_names_are_text_and_a_phone_needs_no_scrolling_sideways(tab: Any, site: str) -> None:
    tab.set_window_size(360, 740)
    for path in ("/", at(), at("/leaderboard"), at("/concepts"), at("/card"), at("/image/3")):
        look(tab, site, path, path.strip("/").replace("/", "-")[-20:])
        assert tab.execute_script("return document.querySelectorAll('main img[src=x], main script').length") == 0
        assert tab.execute_script("return document.documentElement.scrollWidth") <= 500, path


def test_names_for_screen_readers(tab: Any, site: str) -> None:
    for path in ("/", at(), at("/leaderboard"), "/sql"):
        look(tab, site, path)
        unnamed = (
            "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter((field) => "
            "!field.labels.length && !field.ariaLabel).length"
        )
        assert tab.execute_script(unnamed) == 0
        assert tab.execute_script("return document.documentElement.lang") == "en"
        assert len(tab.find_elements(By.TAG_NAME, "h1")) == 1
