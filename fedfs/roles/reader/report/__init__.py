"""A study as one HTML file that anybody opens in a browser, and as numbers for other tools.

``data`` collects from accepted messages and does no I/O; ``html`` and ``tables`` write what it
collected.
"""

from fedfs.roles.reader.report.data import Report, collect
from fedfs.roles.reader.report.html import render, render_overview
from fedfs.roles.reader.report.overview import Overview, overview
from fedfs.roles.reader.report.tables import write_csv

__all__ = [
    "Overview", "Report", "collect", "overview", "render", "render_overview", "write_csv",
]  # fmt: skip
