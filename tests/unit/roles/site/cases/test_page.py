"""The page of cases: worst first, in one file that fetches nothing and everybody can operate."""

from __future__ import annotations

import re

import pytest
from markupsafe import escape

from fedfs.errors import DatasetError
from fedfs.roles.site.cases.page import STAYS, Table, make_page
from support.browser import accessibility, browse, in_a_browser
from support.shown_cases import dataset_json, write_cases

MODELS = {"local": [3, 1, 4, 2], "federated": [1, 2, 3, 0], "personal": [1, 1, 0, 0]}

TABLE = Table("Results", "Mean Dice.", ("site", "alone"), [("north", "0.8")])


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("cases"), MODELS, dataset_json())


def page_of(views, **options):
    content = options.pop("content", dataset_json())
    return make_page(
        views, content, title="Validation cases of north", ranked_by="federated",
        made_at="2027-01-15T08:00:00Z", **options,
    )  # fmt: skip


def test_the_worst_case_is_first_and_the_rest_is_counted(views):
    page = page_of(views, n_shown=2)
    assert [case.case for case in page.cases] == ["case_2", "case_1", "case_0", "case_3"]
    assert page.n_shown == 2
    assert "4 cases, 2 of them with pictures: the lowest Dice of the model federated" in page.html
    assert "Against local, federated is better in 3, alike in 0 and worse in 1." in page.html
    assert page.html.index("case_2") < page.html.index("case_1")
    assert page.html.count("case_0") == 1  # in the table of all
    assert '<a href="#case-1">case_2</a>' in page.html
    assert 'id="case-3"' not in page.html
    assert page.cases[0].hd95_mm["federated"]["shell"] == pytest.approx(3, abs=1)
    assert page.cases[2].hd95_mm is None


def test_it_says_at_its_top_that_it_stays(views):
    html = page_of(views).html
    assert html.index(str(escape(STAYS))) < html.index("<h1>")


def test_it_fetches_nothing_and_runs_nothing(views):
    html = page_of(views).html
    assert "default-src 'none'" in html
    assert "<script" not in html
    addresses = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert all(one.startswith(("#", "data:image/png;base64,")) for one in addresses)
    assert not re.search(r"url\(|@import", html)


def test_names_out_of_files_are_text(tmp_path):
    content = dataset_json(labels={"background": 0, "<b>shell": 1, "core": 2})
    html = page_of(write_cases(tmp_path, {"federated": [1]}, content), content=content).html
    assert "<b>shell" not in html
    assert "&lt;b&gt;shell" in html


def test_a_table_can_stand_above_the_cases(views):
    html = page_of(views, intro=TABLE).html
    assert html.index("Mean Dice.") < html.index('id="cases"') < html.index("All cases")


def test_images_of_one_slice_and_one_model_are_shown(tmp_path):
    content = dataset_json(labels={"background": 0, "shell": [1, 2], "core": 2},
                           regions_class_order=[1, 2])  # fmt: skip
    views = write_cases(tmp_path, {"federated": [1]}, content, shape=(60, 48), spacing=(0.5, 0.5))
    html = page_of(views, content=content).html
    assert html.count("<image ") == 1
    assert "pixels of 0.5 x 0.5 mm" in html.lower()
    assert "slice 1" not in html


def test_a_case_that_cannot_be_read_is_named(tmp_path):
    views = write_cases(tmp_path, {"federated": [1, 2]}, dataset_json())
    views[1].images[0].unlink()
    page = page_of(views)
    assert list(page.broken) == ["case_1"]
    assert "Case case_1: " in page.html
    views[0].reference.unlink()
    with pytest.raises(DatasetError, match=r"None of 2 cases can be shown\. Case case_"):
        page_of(views)


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(views, tmp_path, scheme):
    intro = TABLE if scheme == "dark" else None
    found = accessibility(page_of(views, n_shown=2, intro=intro).html, tmp_path, scheme)
    assert found["dark"] == (scheme == "dark")
    assert found["violations"] == []
    assert {"color-contrast", "label", "svg-img-alt", "scope-attr-valid"} <= set(found["passes"])


@in_a_browser
def test_the_browser_has_nothing_to_complain_about(views, tmp_path):
    path = tmp_path / "cases.html"
    path.write_text(page_of(views).html)
    done = browse(path, tmp_path)
    assert "CONSOLE" not in done.stderr


@in_a_browser
def test_outlines_can_be_switched_off_without_a_script_of_the_page(views, tmp_path):
    script = """<script>
      const shown = (what) => [...document.querySelectorAll(".picture " + what)]
        .some((one) => getComputedStyle(one).display !== "none");
      const told = [];
      for (const [button, outline] of [
        ["reference", ".reference"], ["models", ".model"], ["1", ".c1"], ["2", ".c2"],
      ]) {
        const before = shown(outline);
        document.getElementById("show-" + button).click();
        told.push(before && !shown(outline));
        document.getElementById("show-" + button).click();
      }
      document.title = told.join();
    </script></body>"""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(views).html)
    path = tmp_path / "cases.html"
    path.write_text(html.replace("</body>", script))
    assert "<title>true,true,true,true</title>" in browse(path, tmp_path).stdout
