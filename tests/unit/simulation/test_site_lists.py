"""Tables of public datasets that say which site a case is from."""

from __future__ import annotations

import json

import pytest

from fedfs.errors import UserError
from fedfs.simulation.cases import read_cases, read_patients, split_cases
from fedfs.simulation.site_lists import SiteList, assign_sites


def dataset(folder, cases, n_channels=1):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in cases:
        for channel in range(n_channels):
            (folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz").write_text(case)
        (folder / "labelsTr" / f"{case}.nii.gz").write_text(case)
    content = {"channel_names": {str(i): "MRI" for i in range(n_channels)}, "labels": {"a": 1}}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    return folder


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fets(tmp_path):
    """One line for each subject, four images of each, sites that are numbers."""
    data = dataset(tmp_path / "raw", [f"FeTS2022_{i:05d}" for i in range(4)], n_channels=4)
    lines = [f"{1 + i // 2},FeTS2022_{i:05d}" for i in range(4)]
    sites = SiteList(
        table(tmp_path / "partitioning_1.csv", "Partition_ID,Subject_ID", *lines),
        "Subject_ID",
        "Partition_ID",
    )
    for _ in range(2):
        made = assign_sites(data, sites, tmp_path / "out", log=print)
    assert read_cases(made) == {
        "1": ("FeTS2022_00000", "FeTS2022_00001"),
        "2": ("FeTS2022_00002", "FeTS2022_00003"),
    }
    assert len(list((made / "imagesTr").iterdir())) == 16
    assert (made / "labelsTr" / "FeTS2022_00003.nii.gz").read_text() == "FeTS2022_00003"
    assert not (data / "cases.csv").exists()


def test_m_and_ms(tmp_path):
    """One line for each patient, two frames of each, which stay on one side of a split."""
    codes = [f"A{i}" for i in range(12)]
    frames = [f"{code}_frame{frame:02d}" for code in codes for frame in (0, 9)]
    lines = [f"{i},{code},{'GE Medical' if i % 2 else 'Canon'},4" for i, code in enumerate(codes)]
    heading = ",External code,VendorName,Centre"
    logged: list[str] = []
    sites = SiteList(table(tmp_path / "info.csv", heading, *lines), "External code", "VendorName")
    made = assign_sites(
        dataset(tmp_path / "raw", [*frames, "B1_frame00"]), sites, tmp_path / "o", log=logged.append
    )
    cases, patients = read_cases(made), read_patients(made)
    assert {site: len(names) for site, names in cases.items()} == {"canon": 12, "ge-medical": 12}
    assert patients["A11_frame09"] == "A11"
    assert patients["A1_frame09"] == "A1"
    for split in split_cases(cases, test_share=0.25, patients=patients):
        assert len(split.test) == 2
        assert not {patients[c] for c in split.test} & {patients[c] for c in split.training}
    assert logged == [
        "1 of 25 cases are left out: info.csv does not name them",
        "site 'Canon' is called 'canon'",
        "site 'GE Medical' is called 'ge-medical'",
    ]


def test_a_task_of_the_decathlon_with_a_table_of_ones_own(tmp_path):
    data = dataset(tmp_path / "raw", ["hippocampus_001", "hippocampus_003"])
    sites = SiteList(
        table(tmp_path / "a.csv", "name,scanner", "hippocampus_001,x"), "name", "scanner"
    )
    assert read_cases(assign_sites(data, sites, tmp_path / "out", log=print)) == {
        "x": ("hippocampus_001",)
    }


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (
            ("case,hospital", "c1,a"),
            "has no column 'site'",
            "--site-column, one of: case, hospital",
        ),
        ((), "has no column 'case'", "it is empty"),
        (
            ("case,site", "c1,a", "c1,b"),
            "line 3: 'c1' is at 'b', and before that at 'a'",
            "one site",
        ),
        (("case,site", "x,a"), "names no case of", "it has 'x', the dataset 'c1'"),
        (("case,site", "c1,***"), r"No site can be called '\*\*\*'", "another column"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path, lines, message, hint):
    data, path = dataset(tmp_path / "raw", ["c1"]), table(tmp_path / "sites.csv", *lines)
    with pytest.raises(UserError, match=message) as caught:
        assign_sites(data, SiteList(path), tmp_path / "out", log=print)
    assert hint in caught.value.hint
