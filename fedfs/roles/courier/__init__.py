"""Carry a study between stores: in files, or between two stores that one host sees.

``bundle`` has the format; ``outgoing`` writes a bundle, ``incoming`` publishes one; ``sync`` needs
none.
"""
