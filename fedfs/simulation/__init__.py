"""Many hosts on one machine: simulations, the paper's comparison, the demo."""
