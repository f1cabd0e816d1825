"""Four sites whose networks share some tensors, for studies in the mode ``asym``."""

COMMON = {"encoder.stages.0.0.conv.weight": [4, 1, 3, 3], "decoder.seg_layers.0.bias": [2]}
SHALLOW = {**COMMON, "encoder.stages.1.0.conv.weight": [8, 4, 3, 3]}
DEEP = {
    **SHALLOW,
    "encoder.stages.2.0.conv.weight": [16, 8, 3, 3],
    "decoder.seg_layers.1.bias": [2],
}
WIDE = {**COMMON, "encoder.stages.1.0.conv.weight": [9, 4, 3, 3], "only.here": [5]}
NORM = {"encoder.stages.0.0.norm.weight": [4]}
NETWORKS = {"east": DEEP, "north": DEEP, "south": SHALLOW, "west": WIDE}
TARGETS = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 0.5}
