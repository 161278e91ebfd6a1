"""Label files: which concepts hold for which sample, in the usual layouts."""
