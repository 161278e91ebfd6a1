"""Serve: the store in a browser, read-only."""

from qrp_store.serve.app import create_app, serve

__all__ = ["create_app", "serve"]
