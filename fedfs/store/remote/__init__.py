"""Stores behind fsspec: whatever a package makes a file system of."""
