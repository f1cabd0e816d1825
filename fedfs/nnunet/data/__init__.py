"""A site's cases: dataset, folds, fingerprint, preprocessing."""
