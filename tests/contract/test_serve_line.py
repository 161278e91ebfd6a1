"""serve: every page of a ranked store over real HTTP, who may look, and what bad addresses get."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

DATASET = "/dataset/photos"


@dataclass(frozen=True)
class Answer:
    code: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def get(url: str, **headers: str) -> Answer:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links |= {value for name, value in attrs if name in ("href", "src") and value}


@pytest.fixture(scope="module")
def site(qrp: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server over the ranked store, with pictures of every key."""
    from PIL import Image

    images = tmp_path_factory.mktemp("images")
    for number, key in enumerate(world.keys):
        path = images / key
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (number % 256, 80, 120)).save(path)
    yield from served(qrp, world.store, "--images", str(images))


def served(qrp: Any, store: Path, *options: str) -> Iterator[str]:
    running = qrp.start("serve", "--port", "0", "--json", *options, store=store)
    assert running.stdout is not None
    line = running.stdout.readline()
    while line and '"url"' not in line:
        line = running.stdout.readline()
    assert line, running.stderr.read()
    yield json.loads("{" + line.strip().strip("{},") + "}")["url"].rstrip("/")
    running.terminate()
    running.communicate(timeout=20)
    assert running.returncode == 143


def result_of(world: Any, backbone: str = "sharp") -> dict[str, Any]:
    return next(r for r in world.evaluated["results"] if r["backbone"] == backbone and r["concepts"] == "objects")


def test_every_link_of_every_page_leads_somewhere(site: str) -> None:
    todo, seen, pages = ["/"], {"/"}, 0
    while todo and pages < 150:
        path = todo.pop(0)
        answer = get(site + path)
        pages += 1
        assert answer.code == 200, (path, answer.text)
        if "text/html" in answer.headers["Content-Type"] and "attachment" not in str(answer.headers):
            for link in sorted(Links(answer.text).links):
                absolute = urllib.parse.urljoin(path, link).partition("#")[0]
                assert absolute.startswith("/"), f"{path} leads off the host: {link}"
                if absolute not in seen:
                    seen.add(absolute)
                    todo.append(absolute)
    assert {f"{DATASET}/leaderboard", "/sql", f"{DATASET}/concepts"} <= seen


def test_the_leaderboard_names_the_best_backbone_and_how_sure_that_is(site: str) -> None:
    text = get(f"{site}{DATASET}/leaderboard").text
    assert re.search(r"sharp leads with NMI 0\.\d+ ± 0\.\d+ over 3 seeds", text)
    assert text.index("<bdi>sharp</bdi>") < text.index("<bdi>noise</bdi>")
    assert "What may be claimed" in text
    assert "A single estimate may exceed the true value." in text
    assert "<svg" in text


def test_a_cluster_shows_all_its_images_and_what_defines_it(site: str, world: Any, sql: Any) -> None:
    result = result_of(world)
    query = "SELECT key FROM assignments WHERE clustering_id = ? AND cluster = 2"
    keys = {row["key"] for row in sql(world.store, query, result["clustering_id"])}
    text = get(f"{site}/result/{result['id']}/cluster/2").text
    rest = "".join(get(f"{site}/result/{result['id']}/cluster/2?page={n}").text for n in range(2, len(keys) // 96 + 2))
    assert set(re.findall(r'alt="([^"]*)"', text + rest)) == keys
    assert "object-" in text
    assert "Nearest clusters" in text
    picture = re.findall(r'src="([^"]*/picture/\d+)"', text)[0]
    shown = get(site + picture)
    assert (shown.code, shown.headers["Content-Type"], shown.body[8:12]) == (200, "image/webp", b"WEBP")


def test_clusters_are_searched_sorted_and_held_beside_another_backbones(site: str, world: Any, sql: Any) -> None:
    result, other = result_of(world), result_of(world, "dull")
    query = "SELECT DISTINCT cluster FROM cluster_concepts WHERE result_id = ? AND concept = 'object-3'"
    having = {row["cluster"] for row in sql(world.store, query, result["id"])}
    text = get(f"{site}/result/{result['id']}?q=object-3&sort=number").text
    assert {int(n) for n in re.findall(r"Cluster (\d+):", text)} == having
    both = get(f"{site}/result/{result['id']}?with={other['id']}").text
    assert "% overlap" in both
    assert "<bdi>dull</bdi> · Cluster" in both
    assert get(f"{site}/result/{result['id']}?sort=odd").code == 400


def test_an_image_has_its_concepts_its_clusters_and_its_nearest_images(site: str, world: Any) -> None:
    import numpy as np

    key = world.keys[17]
    found = get(f"{site}{DATASET}/image?key={urllib.parse.quote(key)}")
    assert f"object-{world.group[17]}" in found.text
    assert "Source: <bdi>" in found.text
    distances = np.linalg.norm(world.rows["sharp"] - world.rows["sharp"][17], axis=1)
    distances[17] = np.inf
    nearest = world.keys[int(distances.argmin())]
    part = found.text[found.text.index("<summary><bdi>sharp</bdi>") :]
    assert re.findall(r'alt="([^"]*)"', part)[0] == nearest
    assert get(f"{site}{DATASET}/image?key=nothing").code == 404


def test_a_concept_says_where_it_holds_and_what_it_drives(site: str, world: Any, sql: Any) -> None:
    text = get(f"{site}{DATASET}/concept?set=objects&name=object-1").text
    keys = {k for k, g in zip(world.keys, world.group, strict=True) if g == 1}
    assert set(re.findall(r'alt="([^"]*)"', text)) <= keys
    assert f"holds for {len(keys)} of 400" in text
    assert "Clusters that it drives" in text
    assert get(f"{site}{DATASET}/concept?set=objects&name=nothing").code == 404


def test_sql_answers_downloads_and_refuses_to_write(site: str, world: Any, sql: Any) -> None:
    query = urllib.parse.quote("SELECT backbone, nmi FROM results ORDER BY id")
    n = len(sql(world.store, "SELECT id FROM results"))
    assert f"{n} rows" in get(f"{site}/sql?q={query}").text
    rows = list(csv.DictReader(io.StringIO(get(f"{site}/sql.csv?q={query}").text)))
    table = pyarrow.parquet.read_table(io.BytesIO(get(f"{site}/sql.parquet?q={query}").body))
    assert [r["backbone"] for r in rows] == table["backbone"].to_pylist()
    for bad in ("DELETE FROM result", "SELECT * FROM nowhere", "SELECT 1; SELECT 2"):
        answer = get(f"{site}/sql?q={urllib.parse.quote(bad)}")
        assert answer.code == 400
        assert 'role="alert"' in answer.text
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    stopped = get(f"{site}/sql?q={urllib.parse.quote(endless)}")
    assert "longer than" in stopped.text


def test_compare_says_what_may_be_claimed(site: str, world: Any) -> None:
    a, b = result_of(world)["id"], result_of(world, "noise")["id"]
    text = get(f"{site}{DATASET}/compare?a={a}&b={b}").text
    assert "NMI above noise" in text
    assert "no test of the backbones" in text


def test_two_backbones_are_compared_over_their_common_seeds(qrp: Any, site: str, world: Any) -> None:
    line = ("compare", "sharp", "noise", "--dataset", "photos", "--concepts", "objects", "-k", 6)
    report = qrp.ok(*line, store=world.store)
    of = urllib.parse.quote(f"objects, K 6, {report['protocol']}")
    text = get(f"{site}{DATASET}/compare?one=sharp&two=noise&of={of}").text
    lo, hi = report["ci"]
    sentence = f"sharp exceeds noise by {report['difference']:.3f} NMI (95 % interval {lo:.3f} to {hi:.3f}"
    assert sentence in text
    for seed in report["per_seed"]:
        assert f'<th scope="row">{seed["seed"]}</th>' in text
    assert sentence in get(f"{site}{DATASET}/compare?one=noise&two=sharp&of={of}").text
    assert get(f"{site}{DATASET}/compare?one=sharp&two=nothing").code == 404


def test_the_report_is_built_and_downloaded(site: str) -> None:
    answer = get(f"{site}{DATASET}/report")
    assert answer.code == 200
    assert "attachment" in answer.headers["Content-Disposition"]
    assert b"<svg" in answer.body


def test_bad_addresses_get_an_answer_with_help(site: str, world: Any) -> None:
    for path, code, words in (
        ("/nowhere", 404, "no page"),
        ("/dataset/phots", 404, "photos"),
        ("/result/res-none", 404, "res-"),
        (f"/result/{result_of(world)['id']}/cluster/99", 404, "0 to 5"),
        (f"{DATASET}/image/400", 404, "0 to 399"),
        (f"{DATASET}/picture/999999", 404, ""),
        ("/static/../app.py", 404, ""),
        (f"/result/{result_of(world)['id']}?page=x", 400, "not a number"),
    ):
        answer = get(site + path)
        assert answer.code == code, path
        assert words in answer.text, path
        assert "Traceback" not in answer.text


def test_pages_load_nothing_foreign(site: str) -> None:
    answer = get(site + "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_with_a_token_nobody_looks_without_it(qrp: Any, world: Any) -> None:
    for site in served(qrp, world.store, "--token", "s3cret"):
        address = site.partition("?")[0].rstrip("/")
        assert get(f"{address}/").code == 401
        assert get(f"{address}/static/page.css").code == 401
        assert get(f"{address}/", Authorization="Bearer wrong").code == 401
        assert get(f"{address}/", Authorization="Bearer s3cret").code == 200
        assert get(f"{address}/", Cookie="qrp_store_token=s3cret").code == 200


def test_what_cannot_be_served_is_said_at_once(qrp: Any, world: Any, tmp_path: Path) -> None:
    assert "--token" in qrp.fails(4, "serve", "--host", "0.0.0.0", store=world.store)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "--port" in qrp.fails(4, "serve", "--port", port, store=world.store)
    assert "init" in qrp.fails(3, "serve", store=tmp_path / "nothing")


def test_hostile_names_stay_text(qrp: Any, files: Any, store: Path) -> None:
    keys = [f"<script>alert({i})</script>.png" for i in range(40)]
    rows = [[float(i % 4), float(i % 4 == 1)] for i in range(40)]
    name = "<b>d & 'x'"
    qrp.ok(
        "ingest", files.array(rows), "--keys", files.keys(keys), "--dataset", name, "--backbone", "<i>b", store=store
    )
    qrp.ok("label", files.labels([(k, f"<u>{i % 4}") for i, k in enumerate(keys)]), "--dataset", name, "--concepts",
           "<s>c", store=store)  # fmt: skip
    done = qrp.ok("evaluate", "--dataset", name, "-k", 4, "--epochs", 2, store=store)
    quoted = urllib.parse.quote(name, safe="")
    for site in served(qrp, store):
        for path in ("/", f"/dataset/{quoted}", f"/dataset/{quoted}/leaderboard", f"/result/{done['results'][0]['id']}",
                     f"/dataset/{quoted}/image/3", f"/dataset/{quoted}/card"):  # fmt: skip
            answer = get(site + path)
            assert answer.code == 200, path
            assert not re.search(r"<script>alert|<b>d|<i>b|<u>\d|<s>c", answer.text), path


def test_a_store_that_goes_away_is_said_and_comes_back(qrp: Any, own: Path) -> None:
    for site in served(qrp, own):
        assert get(site + "/").code == 200
        hidden = own.with_name("hidden")
        own.rename(hidden)
        assert get(site + "/").code in (404, 500, 503)
        hidden.rename(own)
        assert get(site + "/").code == 200


def test_a_running_job_shows(qrp: Any, own: Path) -> None:
    from qrp_store.catalog.lifecycle import lease
    from qrp_store.records import Spec
    from qrp_store.store import open_store

    with open_store(str(own)) as opened:
        claim = lease.claim(opened.catalog, Spec("clustering", "sharp/k9/s0", "a series", {"asked": 1}))
        assert isinstance(claim, lease.Claim)
        with lease.held(opened.catalog, claim):
            for site in served(qrp, own):
                assert "<bdi>sharp/k9/s0</bdi>" in get(site + "/jobs").text
