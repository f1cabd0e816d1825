"""The mathematics of a federation: fingerprints, weights, strategies, encodings.

Nothing in here does I/O, reads a clock or draws a random number; numpy is the only library.
Equal inputs give equal bytes, so that two aggregators that see the same updates agree.
"""
