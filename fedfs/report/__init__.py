"""A study as one HTML file that anybody opens in a browser, and as numbers for other tools.

``data`` collects from accepted messages and does no I/O; ``html`` and ``tables`` write what it
collected.
"""

from fedfs.report.data import Report, collect
from fedfs.report.html import render, render_overview
from fedfs.report.overview import Overview, overview
from fedfs.report.tables import write_csv

__all__ = [
    "Overview", "Report", "collect", "overview", "render", "render_overview", "write_csv",
]  # fmt: skip
