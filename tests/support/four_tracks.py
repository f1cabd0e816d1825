"""Options of a study of two configurations in two folds, and the names of its tracks."""

OPTIONS = {"configuration": "2d,3d_fullres", "fold": "0,1", "rounds": 2}
TRACKS = ["2d-0", "2d-1", "3d_fullres-0", "3d_fullres-1"]
