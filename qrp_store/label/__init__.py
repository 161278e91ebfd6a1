"""Label: human concepts in, a versioned concept set out; and what a probe and a reader want of one."""

from qrp_store.label.story import LabelReport, label

__all__ = ["LabelReport", "label"]
