"""Membership tests of models, with nnU-Net, on the cases of the site that runs them."""
