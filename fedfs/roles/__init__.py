"""Put a site's or the aggregator's process together from its configuration, and run it.

Here, and only here, the parts meet: store, keys, view, learner or planner, loop.
"""

from fedfs.roles.aggregator.run import run_aggregator
from fedfs.roles.process import make_learner
from fedfs.roles.site.run import attend, export_own, join, run_site

__all__ = ["attend", "export_own", "join", "make_learner", "run_aggregator", "run_site"]
