from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrp_store.errors import InvalidInput
from qrp_store.kmeans import split
from qrp_store.records import TEST, TRAIN, VAL


def keys(n: int) -> list[str]:
    return [f"n{i % 1000:08d}/{i}.JPEG" for i in range(n)]


labels_of_clusters = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda sizes: max(sizes) >= 5)


@settings(deadline=None)
@given(labels_of_clusters, st.integers(0, 5))
def test_each_cluster_and_the_whole_are_divided_20_16_64(sizes: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    parts, n_small = split(labels, keys(len(labels)), "emoji", seed)
    assert parts.dtype == np.uint8
    assert n_small == sum(0 < size < 5 for size in sizes)
    counts = np.zeros((len(sizes), 3), int)
    np.add.at(counts, (labels, parts), 1)
    for size, count in zip(sizes, counts, strict=True):
        if size < 5:
            assert count[[VAL, TEST]].sum() == 0
        else:
            assert abs(count[TEST] - 0.2 * size) < 1
            assert abs(count[VAL] - 0.16 * size) < 1
            assert count[TRAIN] > 0
    eligible = sum(size for size in sizes if size >= 5)
    assert counts[:, TEST].sum() == round(0.2 * eligible)
    assert counts[:, VAL].sum() == round(0.16 * eligible)


def test_the_counts_of_imagenet() -> None:
    n = 1_281_167
    parts, n_small = split(np.arange(n, dtype=np.int32) % 1000, keys(n), "imagenet-1k", 0)
    assert np.bincount(parts)[[TRAIN, VAL, TEST]].tolist() == [819_947, 204_987, 256_233]
    assert n_small == 0


def test_the_largest_remainders_are_rounded_up_and_ties_go_to_the_lower_cluster() -> None:
    labels = np.repeat(np.arange(3), [6, 8, 6]).astype(np.int32)  # a fifth: 1.2, 1.6, 1.2 of 4 in all
    parts, _ = split(labels, keys(20), "d", 0)
    assert [int(((parts == TEST) & (labels == c)).sum()) for c in range(3)] == [1, 2, 1]
    labels = np.repeat(np.arange(4), 7).astype(np.int32)  # 1.4 each of 6: two are rounded up
    parts, _ = split(labels, keys(28), "d", 0)
    assert [int(((parts == TEST) & (labels == c)).sum()) for c in range(4)] == [2, 2, 1, 1]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter(seed: int) -> None:
    labels, names = (np.arange(200) % 7).astype(np.int32), keys(200)
    order = np.random.default_rng(seed).permutation(200)
    shuffled, _ = split(labels[order], [names[i] for i in order], "d", 0)
    np.testing.assert_array_equal(shuffled, split(labels, names, "d", 0)[0][order])


def test_clusterings_of_one_dataset_share_nearly_the_same_test_samples() -> None:
    n, rng = 50_000, np.random.default_rng(0)
    one, two = (split(rng.integers(0, 100, n).astype(np.int32), keys(n), "d", 0)[0] for _ in range(2))
    shared = ((one == TEST) & (two == TEST)).sum() / (one == TEST).sum()
    assert shared > 0.85, "0.2 by chance"


@pytest.mark.parametrize("change", [("e", 0), ("d", 1)])
def test_dataset_and_seed_choose_other_samples(change: tuple[str, int]) -> None:
    labels = np.zeros(5000, np.int32)
    one, two = split(labels, keys(5000), "d", 0)[0], split(labels, keys(5000), *change)[0]
    assert ((one == TEST) & (two == TEST)).sum() < 300, "200 by chance"


def test_who_goes_where_never_changes() -> None:
    parts, _ = split(np.zeros(25, np.int32), keys(25), "d", 0)
    assert "".join("tvT"[p] for p in parts) == "ttvtttTvttvvTtttTtttTtttT"


def test_any_text_is_a_key() -> None:
    odd = ["../../etc", "", "a\tb", "😀", "\ud800", "x" * 10_000, "<script>", "'", '"', "é"]
    parts, _ = split(np.zeros(10, np.int32), odd, "\ud800", 0)
    assert np.bincount(parts).tolist() == [6, 2, 2]


@pytest.mark.parametrize("sizes", [[4, 4, 4], [1], []])
def test_nothing_left_to_validate_or_test_is_refused(sizes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    with pytest.raises(InvalidInput, match="leave none"):
        split(labels, keys(len(labels)), "d", 0)


def test_labels_and_keys_go_together() -> None:
    with pytest.raises(InvalidInput, match="3 labels for 2 keys"):
        split(np.zeros(3, np.int32), ["a", "b"], "d", 0)
