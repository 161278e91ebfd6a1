"""Export: out of the store and into files that other tools read."""

from qrp_store.export.story import export

__all__ = ["export"]
