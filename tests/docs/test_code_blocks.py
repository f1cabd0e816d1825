"""Every code block of the documents does what it says; ``code_blocks`` has the rules."""

from __future__ import annotations

import textwrap

import pytest

from support.code_blocks import DOCUMENTS, BrokenRuleError, blocks_of, check, difference
from support.story import HOSTS, MOMENTS, story, walk

BLOCKS = [block for path in DOCUMENTS for block in blocks_of(path)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_keeps_the_rule_of_its_language(block):
    check(block)
    if "at" in block.words:
        assert block.words["on"] in HOSTS
        assert block.words["at"] in MOMENTS


@pytest.mark.nnunet
@pytest.mark.xdist_group("documents")
def test_the_study_that_the_documents_tell_goes_as_they_show_it(tmp_path, in_one_process):
    for wrong in walk(tmp_path, story()):
        pytest.fail(wrong)


def one_block(folder, text):
    path = folder / "page.md"
    path.write_text(textwrap.dedent(text))
    return next(iter(blocks_of(path)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```\nls\n```", "no rule for the language ''"),
        ("```fortran\nstop\n```", "no rule for the language 'fortran'"),
        ("```sh\nls\n", "does not end"),
        ("```sh\nfedfs site run STORE --site north --onec\n```", "No such option"),
        ("```sh\nfedfs site run STORE\n```", "Missing option '--site'"),
        ("```sh\nfedfs site walk STORE\n```", "walk"),
        ("```sh\nA=1 fedfs status STORE --jsn | head\n```", "No such option"),
        ("```sh\ndocker run --rm fedfs:0.1.0 site run STORE --onec\n```", "No such option"),
        ("```sh\nfor x in 1 2; do ls\n```", "syntax error"),
        ("```sh\nmake coffee\n```", "no target coffee"),
        ("```sh\npython bench/none.py\n```", "there is no bench/none.py"),
        ("```cron\n* * * * * fedfs aggregate STORE --twice\n```", "No such option"),
        ("```toml\n[site.run]\ncolour = 1\n```", "names 'colour'"),
        ("```toml\n[site.run]\nnum_processes = 'many'\n```", "not a valid integer"),
        ("```toml of=study\nroundz = 3\n```", "names 'roundz'"),
        ("```toml of=trace\nroundz = 3\n```", "names 'roundz'"),
        ("```toml\n[site.walk]\n```", "names 'walk'"),
        ("```toml\n[site\n```", "not TOML"),
        ("```json\n{\n```", "Expecting property name"),
        ("```yaml\na: [\n```", "expected the node content"),
        ("```ini\na = 1\n```", "no section headers"),
        ("```console\n$ ls\n```", "say on=HOST and at=MOMENT"),
        ("```console on=north at=join\nls\n```", "begins with output"),
        ("```console on=north at=join\n$ fedfs status\n```", "Missing argument 'STORE'"),
        ("```python on=north at=join\nif:\n```", "invalid syntax"),
    ],
)
def test_a_block_that_breaks_its_rule_is_refused(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr("support.code_blocks.ROOT", tmp_path)
    (tmp_path / "Makefile").write_text("demo: ready\n")
    with pytest.raises(BrokenRuleError) as error:
        check(one_block(tmp_path, text))
    assert said in str(error.value)


SHOWN = """\
study   organ-214b
keys    5144 20cf faea
waits   since 2026-11-23T20:09:40Z
...
done    12 cases, 0.264 Dice, ...
"""
PRINTED = """\
study        organ-abef
keys         fade 0000 11ff
waits        since 2027-01-01T00:00:00Z
left out
left out, too
done         3 cases, 0.9 Dice, and more
"""


def test_numbers_times_and_hashes_are_free_in_what_is_shown():
    assert difference(SHOWN.splitlines(), PRINTED.splitlines()) is None


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("study ", "site ", "study   organ-214b"),
        ("fade ", "", "keys    5144 20cf faea"),
        (" since 2027-01-01T00:00:00Z", "", "waits   since 2026-11-23T20:09:40Z"),
        ("done ", "undone ", "done    12 cases, 0.264 Dice, ..."),
        ("and more", "and more\nunexpected", "(nothing more, but there is: unexpected)"),
    ],
)
def test_every_other_word_has_to_be_printed(before, after, line):
    printed = PRINTED.replace(before, after).splitlines()
    assert difference(SHOWN.splitlines(), printed) == line


def test_what_is_left_out_is_marked():
    assert difference(["done"], ["left out", "done"]) == "done"
    assert difference([], ["left out"]) is not None
    assert difference(["done", "..."], ["done", "left out"]) is None
