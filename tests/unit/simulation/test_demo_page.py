"""The table of the demo, and its page of test cases with each site's own three models."""

from __future__ import annotations

import json

from fedfs.simulation import demo_page
from fedfs.simulation.cases import Split
from support import shown_cases

SPLITS = (Split("east", ("a", "b"), ("case_0",)), Split("north", ("c",), ("case_1", "case_2")))
DICE = {
    "federated": {"case_0": 0.8, "case_1": 0.7, "case_2": 0.6},
    "local-east": {"case_0": 0.9, "case_1": 0.1, "case_2": 0.2},
    "local-north": {"case_0": 0.3, "case_1": 0.5, "case_2": 0.7},
    "personal-east": {"case_0": 0.95, "case_1": 0.4, "case_2": 0.45},
    "personal-north": {"case_0": 0.6, "case_1": 0.8, "case_2": 0.7},
}
ITERATIONS = {"local": 15, "federated": 12, "personal": 15}


def test_each_site_has_its_three_models_on_its_own_and_on_all_images():
    sites = [demo_page.site_scores(split, DICE) for split in SPLITS]
    heading, rows = demo_page.table(sites, ITERATIONS)
    assert heading[2:5] == ("own images: local", "own images: federated", "own images: personal")
    assert rows == [
        ("east", "2", "0.900", "0.800", "0.950", "0.400", "0.700", "0.600"),
        ("north", "1", "0.600", "0.650", "0.750", "0.500", "0.700", "0.700"),
        ("mean", "", "0.750", "0.725", "0.850", "0.450", "0.700", "0.650"),
        ("iterations", "", "15", "12", "15", "15", "12", "15"),
    ]


def test_the_page_shows_a_case_with_the_models_of_its_own_site(tmp_path):
    content = shown_cases.dataset_json()
    off = {"federated": (1, 1, 1), "local-east": (2, 0, 0), "personal-east": (0, 0, 0)}
    off |= {"local-north": (0, 3, 3), "personal-north": (0, 1, 1)}
    shown_cases.write_cases(tmp_path, off, content)
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        (raw / folder).symlink_to(tmp_path / name)
    outputs = {name: tmp_path / name for name in off}
    views = demo_page.case_views(SPLITS, raw, outputs, ".nii.gz")
    assert [len(view.images) for view in views] == [2, 2, 2]
    assert [view.predictions["local"].parent.name for view in views] == [
        "local-east", "local-north", "local-north",
    ]  # fmt: skip
    assert {view.predictions["federated"].parent.name for view in views} == {"federated"}
    page = tmp_path / "report.html"
    demo_page.write_page(
        page,
        [demo_page.site_scores(split, DICE) for split in SPLITS],
        iterations=ITERATIONS,
        views=views,
        dataset_json=json.loads(json.dumps(content)),
        is_made_up=True,
        made_at="now",
    )
    html = page.read_text(encoding="utf-8")
    assert "no patient is shown" in html
    assert "0.850" in html
    assert all(f"case_{number}" in html for number in range(3))
