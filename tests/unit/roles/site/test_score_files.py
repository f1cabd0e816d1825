"""Scores of cases on a site's own disk."""

from __future__ import annotations

from dataclasses import replace

from fedfs.roles.site.score_files import ScoredCases, ScoreFiles

BY_CASE = {"a": {"organ": {"dice": 0.5, "nsd": 0.9}}, "b": {"organ": {}}}
FULL = ScoredCases(version=3, variant="full", by_case=BY_CASE, nsd_tolerance_mm=1.0)
LOCAL = replace(FULL, variant="local")


def test_scores_are_kept_by_version_and_variant(tmp_path):
    kept = ScoreFiles(tmp_path / "scores")
    assert kept.of_version(3) == {}
    for one in (LOCAL, FULL, replace(FULL, version=2)):
        kept.keep(one)
    assert ScoreFiles(tmp_path / "scores").of_version(3) == {"full": FULL, "local": LOCAL}
    assert list(kept.of_version(3)) == ["full", "local"]
    assert [one.version for one in kept.all()] == [2, 3, 3]
    kept.keep(replace(FULL, variant="personal", is_published=False))
    assert "personal" not in kept.of_version(3)
    again = replace(FULL, by_case={})
    kept.keep(again)
    assert kept.of_version(3)["full"] == again


def test_a_damaged_file_is_nothing_to_compare_with(tmp_path, caplog):
    kept = ScoreFiles(tmp_path)
    kept.keep(FULL)
    (tmp_path / "00003-local.json").write_text('{"version": 3')
    (tmp_path / "00003-ema.json").write_text('{"version": 3}')
    assert list(kept.of_version(3)) == ["full"]
    assert "00003-local.json cannot be read" in caplog.text
    assert "00003-ema.json cannot be read" in caplog.text


def test_the_order_of_cases_stays_and_is_no_order_of_names(tmp_path):
    names = [f"case-{i:03d}" for i in range(40)]
    order = ScoreFiles(tmp_path / "one").in_order(names)
    assert sorted(order) == names != order
    assert ScoreFiles(tmp_path / "one").in_order(names[::-1]) == order
    assert ScoreFiles(tmp_path / "other").in_order(names) != order


def test_surface_scores_of_another_tolerance_are_not_compared():
    assert FULL.comparable_with(LOCAL) == BY_CASE
    found = FULL.comparable_with(replace(LOCAL, nsd_tolerance_mm=2.0))
    assert found == {"a": {"organ": {"dice": 0.5}}, "b": {"organ": {}}}
