"""The file format of a bundle."""
