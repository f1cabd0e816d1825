"""Keys, signatures, and the rules by which messages on a store are believed."""
