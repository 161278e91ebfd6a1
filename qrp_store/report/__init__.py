"""Report: what a store holds about a dataset's results, on one page."""

from qrp_store.report.story import report

__all__ = ["report"]
