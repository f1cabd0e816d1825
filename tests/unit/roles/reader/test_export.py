"""The commands that an export prints."""

from __future__ import annotations

from pathlib import Path

from fedfs.roles.reader.export import Exported, predict_commands


def test_the_second_stage_of_a_cascade_is_predicted_from_the_first():
    models = [
        Exported(Path(f"r/Dataset001_X/nnUNetTrainer__p__{name}"), name, fold, 1, "")
        for name in ("3d_lowres", "3d_cascade_fullres")
        for fold in ("0", "1")
    ]
    first, second = predict_commands(models)
    assert "-o PREDICTIONS_3d_lowres " in first
    assert first.endswith("-c 3d_lowres -f 0 1")
    assert "-o PREDICTIONS_3d_cascade_fullres " in second
    assert second.endswith(
        "-c 3d_cascade_fullres -f 0 1 -prev_stage_predictions PREDICTIONS_3d_lowres"
    )
    (only,) = predict_commands(models[:1])
    assert "-o PREDICTIONS -d" in only
