"""Ingest: images or an array in, an embedding out; the story and the parts that only it needs."""

from qrp_store.ingest.story import IngestReport, ingest

__all__ = ["IngestReport", "ingest"]
