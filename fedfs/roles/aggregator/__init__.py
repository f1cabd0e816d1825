"""The aggregator: plans once, makes each version from the updates."""
