"""Tensors as canonical state dicts, safetensors files and encoded payloads."""
