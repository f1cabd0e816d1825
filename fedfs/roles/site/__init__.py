"""The site: trains each version on its own data and publishes updates."""
