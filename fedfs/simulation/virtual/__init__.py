"""A consortium in virtual time: real loops, messages, policies and encodings; only time is made up.

One thread steps through the hosts, always the one whose clock is furthest behind.
"""
