"""Embeddings in files: one matrix, read row by row, whatever the format."""
