"""The page of errors has what the code raises, in sentences, with something to do."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from fedfs import errors
from fedfs.cli import fedfs as cli
from support.error_page import error_messages

MESSAGES = error_messages.messages()
NEED_A_HINT = (errors.SetupError, errors.StoreError, errors.StudyError, errors.TrainingError)
WITHOUT = {  # guards against a mistake in fedfs itself
    "A site cannot do ….", "An aggregator cannot do ….",
    "An external key never leaves its program.",
    "No site has published a fingerprint.", "The dataset has not been measured yet.",
    "There is no plan to adopt.", "There is no plan to initialise a network from.",
    "There is no plan yet.", "There is nothing to score.",
    "This process was not told to train alone.",
    "This process was not told to make a personal model.",
    "Case …: …", "Case …: ….", "Case … cannot be processed: ….",  # with the hint of the cause
}  # fmt: skip


def test_every_message_is_a_sentence():
    for one in MESSAGES:
        assert re.match(r"[A-Z…]|--|nnU|nnunetv2 |fedfs ", one.text), one
        assert one.text.endswith((".", "…")), one
        assert any(map(str.isalpha, one.text)), one
        assert "!" not in one.text, one


def test_whoever_has_to_act_is_told_how():
    without = {m.text for m in MESSAGES if m.section in NEED_A_HINT and not m.hint}
    assert without == WITHOUT


def test_every_class_of_errors_is_on_the_page():
    raised = {error_messages._CLASSES[one.error] for one in MESSAGES}
    assert raised >= set(all_errors()) - {errors.RejectedError}
    page = error_messages.page()
    for branch in errors.FedfsError.__subclasses__():
        assert f"\nExit code {branch.exit_code}. " in page


def all_errors(cls=errors.FedfsError):
    for child in cls.__subclasses__():
        if child.__module__ == "fedfs.errors":
            yield child
            yield from all_errors(child)


@pytest.mark.parametrize(
    ("words", "section"),
    [
        ("status /nowhere/at/all", errors.StoreError),
        ("status .", errors.StudyError),
        ("status nobody://host/x", errors.UserError),
        ("doctor .", errors.UserError),
        ("init . --name Bad --dataset-json x.json", errors.UserError),
        ("bundle show nothing.fedfs", errors.UserError),
        ("site leave . --site north", errors.UserError),
    ],
)
def test_an_error_is_found_by_its_words(tmp_path, monkeypatch, words, section):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(cli, words.split())
    error = done.exception
    text = str(error) if isinstance(error, errors.FedfsError) else done.stderr.split("Error: ")[1]
    patterns = [re.escape(m.text).replace("…", ".*") for m in MESSAGES if m.section is section]
    assert any(re.fullmatch(p, text.strip(), re.DOTALL) for p in patterns), text


def test_what_the_code_says_is_followed(tmp_path):
    source = """
HINT = "do this"
def check(name, why):
    if name:
        text = f"{name} {why}."
        raise UserError(text, hint=HINT)
    text = "Not this one."
    print(text)
def use():
    check("a", "is too long" if long else "is too short")
    try:
        other()
    except ValueError as error:
        raise RejectedError(str(error))
    raise MalformedError("is late", about=f"the field {name}")
"""
    path = tmp_path / "module.py"
    path.write_text(source)
    modules = []
    modules.append(error_messages._Module(path, "module.py", modules))
    found = {(one.text, one.hint, one.error) for one in modules[0].messages()}
    assert found == {
        ("… is too long.", "do this", "UserError"),
        ("… is too short.", "do this", "UserError"),
        ("The field … is late.", "", "MalformedError"),
    }
