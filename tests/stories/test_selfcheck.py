"""Known answers on the machine at hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from qrp_store.evaluate import selfcheck as story
from qrp_store.evaluate.selfcheck import selfcheck
from qrp_store.probing.known import log_linear, one_concept_each
from qrp_store.probing.sparse import ConceptMatrix


def test_a_control_that_is_none_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(x: ConceptMatrix, parts: np.ndarray, *, seed: int) -> ConceptMatrix:
        return x

    monkeypatch.setattr(story, "permute_rows", unchanged)
    monkeypatch.setattr(story, "_N", 2000)
    report = selfcheck()
    assert not report.ok
    assert not report.cases[-1].ok
    assert report.cases[-1].estimate > 0.3


def test_the_table_of_one_concept_each_has_its_plug_in_information() -> None:
    known = one_concept_each(3000, 7, 5, seed=3)
    assert known.mi_nats == pytest.approx(mutual_info_score(known.x.indices, known.groups))


def test_the_truth_of_the_log_linear_model_does_not_depend_on_the_draw() -> None:
    truths = [log_linear(n, 10, 4, per_sample=3, seed=5).mi_nats for n in (20_000, 20_001)]
    assert truths[0] == pytest.approx(truths[1], rel=0.2)
    assert 0 < truths[0] < np.log(4)
