"""A study in a file: the template holds every option, and a mistake is told with its line."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.command import SECTIONS
from fedfs.cli.spelling import as_defaults, options_of
from fedfs.cli.study import init
from fedfs.cli.study_file import template_of
from fedfs.roles.toml_file import TomlFile
from support.federation import DATASET_JSON

NOT_OF_A_STUDY = {"json"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A coordinator's folder; nothing but its files may be left where nothing was begun."""
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "dataset.json").write_text(json.dumps({**DATASET_JSON}))
    return tmp_path


def run(*words):
    return CliRunner().invoke(cli, ["init", *map(str, words)])


def study(folder, *lines):
    path = folder / "files" / "study.toml"
    path.write_text("\n".join(('name = "organ"', 'dataset_json = "dataset.json"', *lines)) + "\n")
    return path


def drafted(*words):
    done = run("store", *words, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)["sections"]


def test_the_template_has_every_option_in_the_sections_of_the_help():
    text = template_of(init, {})
    keys = re.findall(r"^#?([a-z0-9_]+) = ", text, re.MULTILINE)
    of_store = {name for name in options_of(init) if name.startswith("s3_")}
    assert sorted(keys) == sorted(options_of(init).keys() - of_store - NOT_OF_A_STUDY)
    titles = re.findall(r"^# ---- (.*) ----$", text, re.MULTILINE)
    assert titles == [title for title in SECTIONS if title in titles]
    assert titles[:6] == ["Study", "Network", "Training", "Rounds", "Privacy", "Storage"]
    assert set(tomllib.loads(text)) == {"name", "dataset_json"}


def test_the_template_shows_the_defaults(folder):
    text = template_of(init, {"name": "organ", "dataset_json": "dataset.json"})
    without = re.sub(r"^#([a-z0-9_]+ = (?!.*<))", r"\1", text, flags=re.MULTILINE)
    assert len(tomllib.loads(without)) > 20
    path = folder / "files" / "study.toml"
    path.write_text(without)
    assert drafted(path) == drafted(study(folder))


def test_a_template_that_is_not_filled_in_names_the_line(folder):
    path = folder / "files" / "study.toml"
    path.write_text(run("--template").output)
    done = run("store", path)
    assert re.search(
        r"study.toml, line \d+: name still has the placeholder '<fill in>'", str(done.exception)
    )


def test_options_given_with_the_template_stand_in_it(folder):
    done = run(
        "--template", "--name", "organ", "--dataset-json", "dataset.json", "-c", "2d", "--rounds",
        "3", "--target-spacing", "1", "1", "2.5", "--policy", "buffer", "--policy-option", "size=2",
        "--one-aggregator",
    )  # fmt: skip
    assert tomllib.loads(done.output) == {
        "name": "organ", "dataset_json": "dataset.json", "configuration": "2d", "rounds": 3,
        "target_spacing": [1.0, 1.0, 2.5], "policy": "buffer", "policy_option": {"size": 2.0},
        "one_aggregator": True,
    }  # fmt: skip
    path = folder / "files" / "study.toml"
    path.write_text(done.output)
    charter = drafted(path)
    assert charter["Network"]["spacing"] == "1 x 1 x 2.5 mm"
    assert charter["Rounds"]["a round ends"].startswith("after every 2 updates")


def test_command_line_and_environment_count_more_than_the_file(folder, monkeypatch):
    path = study(folder, "rounds = 3", "min_sites = 5")
    assert drafted(path)["Rounds"]["rounds"] == "3"
    monkeypatch.setenv("FEDFS_INIT_ROUNDS", "4")
    assert drafted(path)["Rounds"]["rounds"] == "4"
    assert drafted(path, "--rounds", "5")["Rounds"]["rounds"] == "5"
    (folder / "host.toml").write_text("[init]\nmin_sites = 7\nminimum_cases = 9\n")
    monkeypatch.setenv("FEDFS_SYSTEM_CONFIG", str(folder / "host.toml"))
    of_study = drafted(path)["Study"]
    assert (of_study["sites"][-7:], of_study["cases"][-7:]) == ("5 sites", "9 cases")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("roundz = 3", "line 3, names 'roundz', which fedfs init does not have"),
        ("[network]\nrounds = 3", "line 3, names 'network', which fedfs init does not have"),
        ('rounds = "many"', "line 3: rounds cannot be 'many'"),
        ('rounds = "<number>"', "line 3: rounds still has the placeholder '<number>'"),
        ("rounds = 0", "line 3 (rounds): rounds 0 is not between"),
        ("local_epochs = 0", "line 3 (local_epochs): local epochs 0 is not between"),
        ("\nlearning_rate = 1.5", "line 4 (learning_rate): The learning rate 1.5 is not above 0"),
        ("learning-rate = 0", "line 3 (learning-rate): The learning rate 0 is not above 0"),
        ('\nconfiguration = "4d"', "line 4 (configuration): Configuration '4d' cannot be"),
        ("local_epochs = 2\nlocal-iterations = 3", "line 3 (local_epochs) and line 4 (local-it"),
        ("rounds = 3\nrounds = 4", "line 4, is not TOML"),
        ("min-sites = 3\nmin_sites = 4", "line 4, gives min_sites a second time, after min-sites"),
        ('policy = "quorum"', "line 3 (policy): Policy 'quorum' needs"),
        ("strategy_option = {a = 1}", "line 3 (strategy_option): Strategy 'FedAvg' has no option"),
        ("planner_option = 3", "line 3: planner_option cannot be 3"),
        ('planner_option = {a = "x"}', "line 3: planner_option cannot be"),
        ("planner_option = {a = 1}", "line 3 (planner_option): The planner option 'a' is not all"),
        ("encryption = true", "line 3: encryption cannot be True: it is a text"),
        ('continue = "x"\npretrained = "y"', "line 4 (pretrained) and line 3 (continue): A study"),
        ('continue = "nowhere"', "line 3 (continue): The store's folder is not there"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_key_and_nothing_is_written(folder, lines, said):
    path = study(folder, lines)
    done = run(folder / "store", path)
    assert done.exit_code != 0
    assert f"{path}, {said}" in str(done.exception)
    assert sorted(one.name for one in folder.iterdir()) == ["files"]


def test_what_every_study_needs_is_missed(folder, monkeypatch):
    path = folder / "files" / "study.toml"
    path.write_text("rounds = 3\n")
    assert f"{path} has no name, which every study needs" in str(run("store", path).exception)
    monkeypatch.setenv("FEDFS_INIT_NAME", "organ")
    assert f"{path} has no dataset_json" in str(run("store", path).exception)
    given = ("--dataset-json", folder / "files" / "dataset.json")
    assert run("store", path, *given, "--dry-run").exit_code == 0
    continued = run("store", path, "--continue", folder / "nowhere")
    assert "The store's folder is not there" in str(continued.exception)


def test_a_dataset_json_is_beside_the_file_and_a_wrong_one_is_named(folder):
    path = study(folder)
    (folder / "files" / "dataset.json").write_text("{}")
    done = run(folder / "store", path)
    assert f"{path}, line 2 (dataset_json): " in str(done.exception)
    assert "has no 'channel_names'" in str(done.exception)


def test_a_dry_run_writes_nothing_and_the_same_command_without_it_starts_the_study(folder):
    path = study(folder)
    done = run("store", path, "--dry-run")
    assert "Nothing was written." in done.output
    assert sorted(one.name for one in folder.iterdir()) == ["files"]
    assert run("store", path).exit_code == 0
    assert sorted(one.name for one in folder.iterdir()) == ["files", "home", "store"]
    done = run("store", path, "--dry-run")
    assert "holds a federation already" in str(done.exception)


def test_a_file_without_a_store_is_not_taken_for_one(folder, monkeypatch):
    path = study(folder)
    assert "Missing argument 'STORE'" in run(path).output
    assert "Missing option '--name'. Give it, or write it into a file" in run("store").output
    monkeypatch.setenv("FEDFS_STORE", "store")
    assert run(path).exit_code == 0
    assert (folder / "store").is_dir()


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ('evaluate = ["models/a", "ours=models/b.zip"]', ["{}/models/a", "ours={}/models/b.zip"]),
        ('evaluate = {ours = "a", theirs = "/x/b.zip"}', ["ours={}/a", "theirs=/x/b.zip"]),
    ],
)
def test_models_to_evaluate_lie_beside_the_file(folder, line, places):
    path = folder / "files" / "study.toml"
    path.write_text(f'name = "organ"\n{line}\n')
    file = TomlFile.read(path)
    found = as_defaults(file, init, base=path.parent)["evaluate"]
    assert found == [place.format(path.parent) for place in places]
    done = run("store", path)  # needs no dataset_json
    assert "dataset_json" not in str(done.exception)
    assert "There is no" in str(done.exception)
