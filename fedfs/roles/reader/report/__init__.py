"""A study as one HTML file that anybody opens in a browser, and as numbers for other tools.

``data`` collects from accepted messages and does no I/O; ``html`` and ``tables`` write what it
collected.
"""
