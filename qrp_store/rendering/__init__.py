"""The page that people look at: figures, pictures and HTML from frozen records. Knows no store."""
