"""Render the report: figures, thumbnails and HTML from frozen records. This leaf knows no store."""
