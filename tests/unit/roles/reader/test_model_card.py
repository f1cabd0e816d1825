"""The model card of an exported model, and what becomes of one that people have filled in."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from fedfs.roles.reader.export import CARD, Exported, write_cards
from fedfs.roles.reader.model_card import CardFold, model_card
from fedfs.trust.signing import key_fingerprint
from support.federation import N_VALIDATED, Federation
from support.scored_models import FOUR_SITES, with_models

HEADINGS = (
    "Model details", "Intended use", "Out-of-scope use", "Training data", "Training procedure",
    "Evaluation", "Ethical considerations", "Caveats and recommendations", "Citation",
)  # fmt: skip


def states_of(federation):
    return [federation.observe(track=track).state for track in federation.tracks]


def card_of(states, version=None, **options):
    version = states[0].newest if version is None else version
    folds = [CardFold(s, version, s.models[version].weights_sha256) for s in states]
    return model_card(folds, folder="nnUNetTrainer__p__2d", commands=["predict"], **options)


def table(card, first):
    """Rows of the table whose heading begins with ``first``: first cell -> the others."""
    found = re.search(rf"^\| {re.escape(first)} (.*?)(?:\n\n|\Z)", card, re.MULTILINE | re.DOTALL)
    lines = found.group(0).strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("hosts")).start()
    federation.run()
    return federation


def test_it_says_who_trained_what_and_how_well(finished):
    (state,) = states_of(finished)
    card = card_of([state])
    assert tuple(re.findall("^## (.*)$", card, re.MULTILINE)) == HEADINGS
    assert re.findall("^# (.*)$", card, re.MULTILINE) == ["Model card: test, 3d_fullres"]
    assert table(card, "Site | Cases | Trained on") == {
        "east": ["10", "10", "3"], "north": ["20", "20", "3"], "south": ["30", "30", "3"],
    }  # fmt: skip
    scores = table(card, "Site | Cases | Mean Dice")
    for site in finished.targets:
        dice = state.evaluations[site, 3, "full"].mean_dice
        n_cases, mean, interval, of_class = scores[site]
        assert (n_cases, mean, of_class) == (str(N_VALIDATED), f"{dice:.3f}", f"{dice:.3f}")
        assert re.fullmatch(r"0\.\d{3} to 0\.\d{3}", interval)
    for text in (
        state.charter.study, state.models[3].weights_sha256, state.digests[state.charter.key],
        key_fingerprint(state.charter.coordinator_key),
        key_fingerprint(state.charter.aggregator_key),
        "3: at most 15 iterations at each site", "FedAvg, weighted by n_cases", "fp32",
        "no medical device", "| Licence | **to be filled in** |", "license: unknown",
    ):  # fmt: skip
        assert text in card
    assert card == card_of([state])


def test_where_sites_publish_a_spread_each_has_an_interval_and_all_a_mean(tmp_path):
    targets = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 0.5}
    federation = Federation(tmp_path, targets=targets, rounds=1).start()
    federation.run()
    state = with_models(states_of(federation)[0], FOUR_SITES)
    card = card_of([state])
    scores = table(card, "Site | Cases | Mean Dice")
    assert scores["north"][:3] == ["6", "0.880", "0.848 to 0.912"]
    assert (
        "Random-effects mean over 4 sites: 0.826 (95 % interval 0.712 to 0.941); the sites differ "
        "by a standard deviation of 0.070 (I² 95 %), p of Cochran's Q < 0.001."
    ) in card
    alone = card_of([state], site="north")
    assert "0.848 to 0.912" in alone
    assert "Random-effects" not in alone


def test_an_older_version_has_pseudo_dice_only(finished):
    (state,) = states_of(finished)
    card = card_of([state], version=1)
    assert "Only pseudo Dice is known" in card
    dice = state.evaluations["north", 1, "pseudo"].mean_dice
    assert table(card, "Site | Cases | Mean Dice")["north"][1] == f"{dice:.3f}"


def test_the_model_of_a_site_shows_its_own_score_alone(finished):
    card = card_of(states_of(finished), site="north")
    assert "This model is that of north" in card
    assert table(card, "Site | Cases | Mean Dice").keys() == {"north"}


def test_nothing_is_known_before_anybody_has_scored(finished):
    (state,) = states_of(finished)
    assert "No site has published a score" in card_of([dataclasses.replace(state, evaluations={})])


def test_names_cannot_break_the_table(finished):
    (state,) = states_of(finished)
    score = state.evaluations["north", 3, "full"]
    classes = {"a|b <i>": score.classes["organ"]}
    named = {("north", 3, "full"): dataclasses.replace(score, classes=classes)}
    card = card_of([dataclasses.replace(state, evaluations=named)])
    assert "| a&#124;b &lt;i&gt; |" in card
    table(card, "Site | Cases | Mean Dice")


def test_a_card_that_was_filled_in_stays_until_a_fold_is_added(tmp_path):
    federation = Federation(tmp_path / "hosts", configuration="2d", fold="0,1", rounds=1).start()
    federation.run()
    states, folder = states_of(federation), tmp_path / "Dataset001_X" / "nnUNetTrainer__p__2d"

    def export(state):
        place = folder / f"fold_{state.charter.fold}"
        place.mkdir(parents=True, exist_ok=True)
        record = {"version": 1, "weights_sha256": state.models[1].weights_sha256}
        (place / "fedfs.json").write_text(json.dumps(record))
        fold, sha256 = state.charter.fold, record["weights_sha256"]
        write_cards(states, [Exported(folder, "2d", fold, 1, sha256)])
        return (folder / CARD).read_text()

    first = export(states[0])
    assert "-f 0\n" in first
    filled_in = first.replace("| Licence | **to be filled in** |", "| Licence | CC BY 4.0 |")
    (folder / CARD).write_text(filled_in)
    assert export(states[0]) == filled_in
    both = export(states[1])
    assert "-f 0 1\n" in both
    assert re.search(r"\| east \| 20 \| 0\.\d+ \| 0\.\d+ to 0\.\d+ \|", both)
    assert (folder / f"{CARD}.old").read_text() == filled_in
