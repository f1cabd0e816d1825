"""Examination of a host before it takes part."""
