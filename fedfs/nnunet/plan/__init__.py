"""Plans and the networks that they describe."""
