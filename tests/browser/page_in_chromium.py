"""The report in a real browser: `make test-browser`. Needs Chromium and its driver, so `make test` leaves it out.

QRP_SCREENSHOTS=FOLDER keeps pictures of the page to look at.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from qrp_store.rendering.content import (
    ClusterConcept,
    ClusterView,
    Gallery,
    Matched,
    Picture,
    Ranked,
    Report,
    SeedScore,
    Setting,
)
from qrp_store.rendering.page import render

NASTY = '<img src=x onerror=alert(1)> "q" 🦊 شبكة'


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page, freshly opened on a desktop; afterwards nothing was complained about and nothing asked for."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.set_window_size(1280, 900)
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert {url.partition("#")[0] for url in urls if not url.startswith("data:")} <= {page.as_uri()}
    keep(browser, "last")


def keep(browser: Any, name: str) -> None:
    """A picture of what is shown, when somebody wants to look."""
    folder = os.environ.get("QRP_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def cards(browser: Any) -> list[Any]:
    return list(browser.find_elements(By.CSS_SELECTOR, "#cards .card"))


def headings(browser: Any) -> list[str]:
    return [card.find_element(By.TAG_NAME, "h3").text for card in cards(browser)]


def test_names_with_markup_stand_there_as_text(opened: Any) -> None:
    assert NASTY in opened.find_element(By.TAG_NAME, "main").text
    assert any("<script>alert('pear')</script>" in text for text in headings(opened))
    assert opened.execute_script("return document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert NASTY[:10] in opened.find_element(By.CSS_SELECTOR, "#ranking svg").get_attribute("textContent")
    keep(opened, "desktop")


def test_every_picture_is_drawn_and_has_its_key_beside_it(opened: Any) -> None:
    drawn = "return [...document.images].every(i => i.complete && i.naturalWidth === 96 && i.alt.includes('<b>'))"
    assert WebDriverWait(opened, 20).until(lambda driver: driver.execute_script(drawn))
    assert opened.execute_script("return document.images.length") > 50


def test_searching_a_concept_shows_the_clusters_it_drives(opened: Any) -> None:
    everything = len(cards(opened))
    search = opened.find_element(By.ID, "search")
    search.send_keys("APPLE")
    shown = cards(opened)
    assert 0 < len(shown) <= everything
    assert all(card.find_element(By.TAG_NAME, "mark").text == "apple" for card in shown)
    weights = [
        number(card.find_element(By.XPATH, ".//li[.//mark]//span[@class='number']").text.split()[1]) for card in shown
    ]
    assert weights == sorted(weights, reverse=True)
    assert "apple" in opened.find_element(By.ID, "status").text.lower()
    keep(opened, "search")
    search.clear()
    search.send_keys("nothing is called like this", Keys.ENTER)
    assert cards(opened) == []
    assert opened.find_element(By.ID, "status").text.startswith("0 of 12")
    assert "none has" in opened.find_element(By.ID, "status").text
    assert not opened.find_element(By.ID, "sort").is_enabled()


def test_clusters_sort_by_what_is_chosen(opened: Any) -> None:
    def numbers() -> list[int]:
        return [int(text.split()[1].rstrip(":")) for text in headings(opened)]

    data = json.loads(opened.find_element(By.ID, "data").get_attribute("textContent"))
    clusters = {cluster[0]: cluster for cluster in data["galleries"][0]["clusters"]}
    by_validation = sorted(clusters, key=lambda n: (clusters[n][9] is None, clusters[n][2] < 5, clusters[n][9] or 0))
    sort = Select(opened.find_element(By.ID, "sort"))
    assert numbers() == by_validation
    for heading, card in zip(headings(opened), cards(opened), strict=True):
        lo, hi = clusters[int(heading.split()[1].rstrip(":"))][7:9]
        assert lo is None or f"[{lo:.2f}, {hi:.2f}]" in card.text
    sort.select_by_value("worst")
    many = [n for n in by_validation if clusters[n][9] is not None and clusters[n][2] >= 5]
    assert numbers()[: len(many)] == many[::-1]
    sort.select_by_value("number")
    assert numbers() == list(range(12))


def test_the_ranking_sorts_by_a_column_and_says_so(opened: Any) -> None:
    def column() -> list[float]:
        return [number(row.text) for row in opened.find_elements(By.CSS_SELECTOR, "#ranking tbody td:nth-child(4)")]

    before = column()
    button = opened.find_elements(By.CSS_SELECTOR, "#ranking th button")[3]
    button.send_keys(Keys.ENTER)
    assert column() == sorted(before)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.SPACE)
    assert column() == before


def test_two_backbones_stand_side_by_side(opened: Any) -> None:
    compared = Select(opened.find_element(By.ID, "compare"))
    compared.select_by_visible_text("noisy")
    pairs = opened.find_elements(By.CSS_SELECTOR, "#cards .pair")
    assert len(pairs) == 12
    assert "overlap" in pairs[0].text
    assert "noisy · Cluster" in pairs[0].text
    keep(opened, "beside")
    Select(opened.find_element(By.ID, "backbone")).select_by_index(1)
    assert opened.find_elements(By.CSS_SELECTOR, "#cards .pair") == []


def test_a_keyboard_and_a_screen_reader_find_their_way(opened: Any) -> None:
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert opened.switch_to.active_element.text == "Skip to the clusters"
    unnamed = """
      const named = e => e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label');
      return [...document.querySelectorAll('input, select, button, a, figure')].filter(e => !named(e)).length"""
    assert opened.execute_script(unnamed) == 0
    levels = "return [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))"
    found = opened.execute_script(levels)
    assert found[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(found))
    assert opened.find_element(By.ID, "status").get_attribute("role") == "status"
    assert opened.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        for selector in ("p", "#ranking svg text", ".card li", ".number", "nav a", "figcaption"):
            assert contrast(opened, selector) >= 4.5, selector
        keep(opened, scheme)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(browser: Any, selector: str) -> float:
    """WCAG's contrast of an element's text to what lies behind it."""
    script = """
      const e = document.querySelector(arguments[0]), own = getComputedStyle(e);
      let b = e; while (b && getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
      return [e.closest('svg') ? own.fill : own.color, getComputedStyle(b || document.body).backgroundColor]"""
    light = []
    for colour in browser.execute_script(script, selector):
        channels = [int(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_a_phone_shows_it_without_sideways_scrolling(opened: Any) -> None:
    phone = {"width": 360, "height": 760, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
        size = "return document.querySelector('#ranking svg text').getBoundingClientRect().height"
        assert opened.execute_script(size) >= 9
        assert "very very" in opened.find_element(By.ID, "cards").text
        tallest = "return Math.max(...[...document.querySelectorAll('.card h3, .card li')].map(e => e.offsetHeight))"
        assert opened.execute_script(tallest) < 100
        keep(opened, "phone")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints_without_controls(opened: Any) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.ID, "ask").is_displayed()
        assert cards(opened)[0].is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.find_elements(By.CSS_SELECTOR, "details:not([open], .numbers)") == []
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert opened.find_elements(By.CSS_SELECTOR, "details:not([open], .numbers)")
    printed = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) <= 6
    ranking = "return getComputedStyle(document.querySelector('#ranking .wide')).breakInside"
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert opened.execute_script(ranking) == "avoid"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_there_are_still_ranking_and_clusters(opened: Any) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.refresh()
        assert len(cards(opened)) == 12
        assert "Scripts are switched off" in opened.find_element(By.ID, "clusters").text
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_ten_backbones_of_a_thousand_clusters_open_and_page(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(render(large()), "utf-8")
    assert path.stat().st_size < 30_000_000
    browser.get(path.as_uri())
    assert len(cards(browser)) == 60
    browser.find_element(By.ID, "search").send_keys("concept 7")
    assert cards(browser)
    browser.find_element(By.ID, "search").clear()
    browser.execute_script("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.find_element(By.ID, "more").click()
    assert len(cards(browser)) == 120
    assert browser.switch_to.active_element.text == headings(browser)[60]


def large() -> Report:
    """Ten backbones of a thousand clusters with six thousand pictures of noise."""
    rng = np.random.default_rng(0)
    noise = base64.b64encode(rng.bytes(2600)).decode()
    pictures = tuple(Picture(f"{i}.jpg", f"data:image/webp;base64,{noise}") for i in range(6000))
    told = tuple(ClusterConcept(f"concept {i}", "group", 1.234, 12.3, 321) for i in range(8))
    galleries = tuple(
        Gallery(
            *(f"backbone {b}", f"res-{b}", 0, 0.5 - b / 100),
            tuple(
                ClusterView(k, 1234, 250, 3.2, 0.4, 0.001, told, tuple(range(6 * k, 6 * k + 6)) if b == 0 else ())
                for k in range(1000)
            ),
        )
        for b in range(10)
    )
    rows = tuple(
        Ranked(i + 1, g.backbone, g.nmi, 0.01, 1.0, 20.0, 0.4, 0.8, (SeedScore("r", 0, g.nmi, None, None),))
        for i, g in enumerate(galleries)
    )
    same = tuple(range(1000))
    return Report(
        dataset="large",
        n=1_281_167,
        n_concepts=2000,
        settings=(Setting("all", 1000, "laina2022", "abc", rows),),
        across_k=(),
        groups=(),
        histories=(),
        forward=(),
        published=(),
        galleries=galleries,
        matches=tuple(Matched(0, i, same, (0.5,) * 1000) for i in range(1, 10)),
        pictures=pictures,
        notes=(),
        made_of=(("Data", {"images": "1,281,167"}),),
        newest="2026-01-01",
        version="0.1.0",
    )
