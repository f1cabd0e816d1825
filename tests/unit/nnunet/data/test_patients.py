"""Patients of cases, as a site writes them beside its images."""

from __future__ import annotations

import pytest

from fedfs.errors import DatasetError
from fedfs.nnunet.data.patients import read_patients

CASES = {"a_1", "a_2", "b_1"}


def read(folder, text, encoding="utf-8"):
    (folder / "patients.csv").write_bytes(text.encode(encoding))
    return read_patients(folder, CASES)


def test_cases_have_the_patients_that_the_file_names(tmp_path):
    assert read(tmp_path, "case,patient\na_1,a\na_2,a\n") == {"a_1": "a", "a_2": "a"}


def test_a_spreadsheet_may_have_written_it(tmp_path):
    text = "patient,case,age\r\n a , a_1,7\r\nb,b_1,8\r\n"
    assert read(tmp_path, text, "utf-8-sig") == {"a_1": "a", "b_1": "b"}


def test_without_the_file_nobody_is_named(tmp_path):
    assert read_patients(tmp_path, CASES) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case;patient\na_1;a\n", "does not name the columns case and patient"),
        ("", "does not name the columns case and patient"),
        ("case,patient\na_1,a\na_1,b\n", "line 3, names the case a_1 again"),
        ("case,patient\nc_1,a\n", "line 2, names the case c_1, which the dataset does not hold"),
        ("case,patient\na_1\n", "line 2, lacks the case or the patient"),
        ("case,patient\na_1, \n", "line 2, lacks the case or the patient"),
        ('case,patient\na_1,"a\n', "cannot be read: unexpected end of data"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path, text, said):
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, text)


def test_other_encodings_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read(tmp_path, "case,patient\na_1,Müller\n", "latin-1")
