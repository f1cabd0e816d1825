"""A site's policy: what may leave the site, whatever the charter of a study says."""
