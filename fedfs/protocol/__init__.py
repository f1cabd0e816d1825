"""The on-disk contract: keys, messages, their JSON form, and what follows from them.

Nothing in here does I/O, reads a clock or draws a random number.
"""
