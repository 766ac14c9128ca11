"""What ranks gather (that they give what one process gives is in `runs/test_interrupted.py`)."""

from __future__ import annotations

from nabla_eval.harness.ranks import _with_all_metrics


def test_a_metric_that_only_other_ranks_have_is_gathered_or_named(lm, caplog):
    key = ("rejection_rate", "none")
    ranks = [{"t": {("a", "none"): [1], key: [0.5]}}, {"t": {("a", "none"): [2]}}]
    assert _with_all_metrics(ranks)[1] == {"t": {("a", "none"): [2], key: []}}
    assert not caplog.records
    _with_all_metrics([{"t": {("a", "none"): [2]}}, {"t": {key: [0.5]}}])
    assert "lacks rejection_rate of t" in caplog.text and "1 documents" in caplog.text
    samples = [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert _with_all_metrics(samples) == [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert lm(method="greedy").gather_object({"t": {}}) == [{"t": {}}]
