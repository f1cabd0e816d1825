"""Parties of a study, a folder for each, and what every process of theirs needs."""
