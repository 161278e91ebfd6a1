"""Frozen networks: architectures, checkpoints, preprocessing, features and expert labels."""
