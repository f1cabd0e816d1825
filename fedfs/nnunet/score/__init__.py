"""Predictions and scores of models, and model folders for nnU-Net's own commands."""
