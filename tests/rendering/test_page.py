"""The page holds everything itself, and whatever the store calls things stays text."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from qrp_store.rendering import figures
from qrp_store.rendering.captions import digits
from qrp_store.rendering.content import (
    Claim,
    ClusterConcept,
    ClusterView,
    ForwardPoint,
    Gallery,
    GroupBar,
    History,
    KPoint,
    Matched,
    Picture,
    PublishedPoint,
    Ranked,
    Report,
    SeedScore,
    SeriesPoint,
    Setting,
)
from qrp_store.rendering.page import embedded, render
from qrp_store.rendering.ranks import spearman_interval
from qrp_store.samples import width

NASTY = "</script><script>alert(1)</script>\"'&<b>$x_2$ 🦊 شبكة \u202e"
OTHER = "plain"


@pytest.mark.parametrize(
    "value, said", [(0.5131, "0.51"), (-0.0049, "0.00"), (-0.005001, "−0.01"), (-1.0, "−1.00"), (None, "–")]
)
def test_a_number_has_a_minus_only_where_it_is_below_zero(value: float | None, said: str) -> None:
    assert digits(value, 2) == said


def clusters(n: int, name: str) -> tuple[ClusterView, ...]:
    told = (ClusterConcept(name, name, 1.5, 2.0, 7), ClusterConcept("apple", None, 0.5, None, 1))
    last = ClusterView(n - 1, 0, 0, None, None, 0.0, ())
    return (*(ClusterView(i, 10 + i, 5, 0.1 * i, 0.5, 0.02, told, (0,)) for i in range(n - 1)), last)


def content(name: str = NASTY, n: int = 30) -> Report:
    rows = tuple(
        Ranked(i + 1, b, 0.5 - i / 10, 0.01, 1.0, 20.0, 0.4, 0.8, (SeedScore("res-1", 0, 0.5, 0.4, 0.6),))
        for i, b in enumerate((name, OTHER))
    )
    settings = (Setting(name, n, "laina2022", "abc", rows), Setting(name, 8, "tight", "def", rows[:1]))
    return Report(
        dataset=name,
        n=1000,
        n_concepts=12,
        settings=settings,
        across_k=tuple(KPoint(b, k, 0.4, None) for b in (name, OTHER) for k in (8, 30)),
        groups=tuple(GroupBar(b, g, 0.3, 0.5, 0.2) for b in (name, OTHER) for g in (name, "colour")),
        histories=(History(name, (0, 1, 2), (None, 1.0, 0.9), (2.0, 1.5, 1.6), 1),),
        forward=(ForwardPoint(name, 0.5, 0.7, "top-1"), ForwardPoint(OTHER, 0.4, 0.6, "top-1")),
        published=(PublishedPoint(name, 0.5, 75.3, name), PublishedPoint(OTHER, 0.4, 71.8, "a table")),
        galleries=(
            Gallery(name, "res-1", 0, 0.5, clusters(n, name)),
            Gallery(OTHER, "res-2", 0, 0.4, clusters(n, name)),
        ),
        matches=(Matched(0, 1, tuple(range(n)), (0.5,) * n),),
        pictures=(Picture(name, "data:image/webp;base64,AAAA"),),
        notes=(name,),
        made_of=(("Data", {"dataset": name}),),
        newest="2026-01-01",
        version="0.1.0",
        claims=(Claim("Rank", f"{name} ranks first."),),
        series=tuple(
            SeriesPoint(s, p, f"{s}/{p}", 0.3 + p / 10, *((0.2, 0.6) if p else (None, None)))
            for s in (name, OTHER)
            for p in range(3)
        ),
        rule="most backbones",
    )


class Reader(HTMLParser):
    """Elements with attributes, and the text of each kind of element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open, []).append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render(content())


def test_names_with_markup_stay_text(html: str) -> None:
    page = Reader(html)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [tag for tag, _ in page.elements if tag == "b"]
    assert "<script>alert" not in html
    assert any(NASTY in text for text in page.text["bdi"])
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == [NASTY] * 24


def test_the_page_loads_nothing(html: str) -> None:
    page = Reader(html)
    loading = [a.get("src") or "" for _, a in page.elements if "src" in a]
    assert all(source.startswith("data:image/webp;base64,") for source in loading)
    assert {a["href"] for tag, a in page.elements if tag in ("a", "link") and not str(a["href"]).startswith("#")} == {
        "https://arxiv.org/abs/2209.03268"
    }
    assert "default-src 'none'" in html
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"https://arxiv.org/abs/2209.03268"}


def test_every_id_is_there_once_and_every_link_inside_leads_somewhere(html: str) -> None:
    elements = Reader(html).elements
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for _, a in elements if str(a.get("href", "")).startswith("#")} <= set(ids)
    used = re.findall(r"url\(#([^)]+)\)", html) + re.findall(r'xlink:href="#([^"]+)"', html)
    assert used
    assert set(used) <= set(ids)


def test_what_the_script_reads_is_complete(html: str) -> None:
    text = html.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    data = json.loads(text)
    assert data["pictures"] == [[NASTY, "data:image/webp;base64,AAAA"]]
    assert [gallery["backbone"] for gallery in data["galleries"]] == [NASTY, OTHER]
    assert data["concepts"] == [[NASTY, 0], ["apple", None]]
    assert data["galleries"][0]["clusters"][3][:6] == [3, 13, 5, 0.3, 0.5, 0.02]
    assert data["galleries"][0]["clusters"][3][6] == [[0, 1.5, 2.0, 7], [1, 0.5, None, 1]]
    assert data["matches"][0][2][5] == [5, 0.5]


def test_every_figure_is_well_formed_and_keeps_names_as_text(html: str) -> None:
    drawn = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)
    assert len(drawn) == 10  # of the groups one for each backbone
    for svg in drawn:
        tree = ElementTree.fromstring(svg.replace("xlink:", ""))
        assert not re.search(r"fill: #|stroke: #|mathdefault", svg)
        assert tree.tag == "svg"
    shown = ["".join(node.itertext()) for node in ElementTree.fromstring(drawn[0].replace("xlink:", "")).iter("text")]
    assert any(text.startswith("</script><s") for text in shown)
    assert any(
        "#010203" in text for text in re.findall(">[^<]*#010203[^<]*<", figures.ranking(content("#010203").main.rows))
    )


def test_every_figure_but_the_ranking_says_the_same_in_numbers(html: str) -> None:
    tables = dict(re.findall(r'aria-label="([^"]*) in numbers"><table>(.*?)</table>', html, flags=re.DOTALL))
    assert list(tables) == [
        "Reverse and linear probing",
        "Reverse probing and published top-1",
        "Score against K",
        "Score along a series",
        "Concept groups",
        "Training",
        "Cluster sizes",
        "Information by cluster",
    ]
    bars = "<td><bdi>0.300</bdi></td><td><bdi>0.200</bdi></td><td><bdi>0.500</bdi></td>"
    assert re.findall("(?<=colour</bdi></td>).*(?=</tr>)", tables["Concept groups"]) == [bars] * 2
    (sizes,) = (line for line in tables["Cluster sizes"].splitlines() if f"<bdi>{OTHER}" in line)
    assert re.findall(r"<td><bdi>(\d+)", sizes)[::4] == ["0", "38"]
    assert all('scope="row"' in body and 'scope="col"' in body for body in tables.values())


def test_long_names_stay_apart_in_figures_and_fit_in_any_script() -> None:
    long = [f"dino_vitb16_pretrain_800ep_multicrop_{end}" for end in ("in1k", "in22k")]
    rows = tuple(Ranked(i + 1, b, 0.5, None, 1.0, 20.0, 0.4, 0.8, ()) for i, b in enumerate((*long, "長い名前" * 20)))
    tree = ElementTree.fromstring(figures.ranking(rows).replace("xlink:", ""))
    names = [text for node in tree.iter("text") if "…" in (text := "".join(node.itertext()))]
    assert len(set(names)) == 3
    assert all(width(name) <= 26 for name in names)
    assert all(name.startswith("dino") for name in names[:2])
    assert [name.rpartition("_")[2] for name in names[:2]] == ["in1k", "in22k"]


def test_twenty_series_have_twenty_looks() -> None:
    drawn = figures.against("forward", "x", [(f"b{i}", i, i) for i in range(20)])
    signs = re.findall(r'<use xlink:href="#([\w-]+)"[^>]*style="([^"]*)"', drawn)
    points = [sign for sign in signs if "--c" in sign[1]]
    assert len(points) == 40  # in the plot and in the legend
    assert len(set(points)) == 20


def test_the_same_content_is_the_same_page(html: str) -> None:
    assert render(content()) == html


def test_json_inside_a_script_ends_nothing() -> None:
    value = ["</script>", "<!--", "&amp;", "\u2028", "🦊"]
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_ten_backbones_of_a_thousand_clusters_stay_below_three_megabytes_without_pictures() -> None:
    one = content("backbone")
    told = tuple(ClusterConcept(f"concept {i}", "group", -1.234, 12.345, 321) for i in range(8))
    many = tuple(ClusterView(i, 1234, 250, 3.21, 0.43, 0.0012, told) for i in range(1000))
    page = Report(
        **{**vars(one), "galleries": tuple(Gallery(f"b{i}", "r", 0, 0.4, many) for i in range(10)), "pictures": ()}
    )
    assert len(render(page).encode()) < 3_000_000


def test_spearmans_interval_is_that_of_fishers_z() -> None:
    assert spearman_interval(0.5, 3) is None
    assert spearman_interval(None, 10) is None
    assert spearman_interval(1.0, 10) == (1.0, 1.0)
    lo, hi = spearman_interval(0.6, 28) or (0, 0)
    half = 1.959964 * ((1 + 0.18) / 25) ** 0.5
    assert [math.atanh(lo), math.atanh(hi)] == pytest.approx([math.atanh(0.6) - half, math.atanh(0.6) + half])
