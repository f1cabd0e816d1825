"""Federated nnU-Net training for hospitals that can exchange nothing but files."""

__version__ = "0.1.0"
