"""Where labels come from: files in the usual layouts."""
