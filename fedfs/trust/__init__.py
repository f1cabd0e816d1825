"""Who said what: keys, signatures, and what may be believed of what is on the store."""
