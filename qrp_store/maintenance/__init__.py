"""Maintenance of a store: verify, repair, remove, copy, and check the machine."""
