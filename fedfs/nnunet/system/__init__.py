"""The host that nnU-Net runs on: variables, files, processes, failures."""
