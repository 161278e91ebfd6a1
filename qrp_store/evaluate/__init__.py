"""Evaluate: from embeddings to ranked, versioned results; what is scored beside them, compared and computed again."""

from qrp_store.evaluate.story import EvaluateReport, evaluate

__all__ = ["EvaluateReport", "evaluate"]
