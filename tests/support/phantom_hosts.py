"""Names that end-to-end tests share."""

DATASET = "Dataset007_Phantom"
N_CASES = {"east": 7, "north": 8}
