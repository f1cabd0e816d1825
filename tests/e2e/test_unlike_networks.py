"""Every site plans for itself, with the real nnU-Net: made-up images, and six real institutions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import pytest

from fedfs.aggregation.shared_tensors import shared_by
from fedfs.errors import FedfsError
from fedfs.exchange.read import open_study
from fedfs.protocol.state import StudyState
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.hosts import LENIENT_POLICY, Host, LocalStudy
from fedfs.store import open_store
from fedfs.tensors.safetensors_reader import TensorFile
from support.one_process import NOTHING_LEFT, HostHere, call
from support.phantom_hosts import DATASET
from support.slow import slow

pytestmark = [pytest.mark.nnunet]

TIMEOUT_S = 600.0
SMALL = (
    "--planner-option",
    "UNet_base_num_features=8",
    "--planner-option",
    "UNet_max_features_2d=32",
    "--trainer",
    "nnUNetTrainerNoMirroring",
)


def begin(
    hosts: Mapping[str, Host],
    store: str,
    dataset_json: Path,
    *init: str,
    joins: Mapping[str, tuple[str, ...]],
    run: tuple[str, ...] = (),
) -> LocalStudy:
    """Begin a study of the mode asym, of small networks."""
    study = LocalStudy(
        store=Path(store), dataset=DATASET, dataset_json=dataset_json,
        coordinator=hosts["coordinator"], sites={site: hosts[site] for site in joins},
        init=("--name", "asym", "--mode", "asym", "-c", "2d", "--val-iterations", "1", *SMALL,
              *init),
        join=joins,
        run=run,
    )  # fmt: skip
    study.begin()
    return study


def take_turns(study: LocalStudy, hosts: Mapping[str, HostHere]) -> StudyState:
    """Let everybody do in turn what can be done, to the end; return what they published."""
    for _ in range(12):
        turns = [hosts[site].once(*study.run_command(site)) for site in study.sites]
        turns.append(hosts["coordinator"].once("aggregate", str(study.store)))
        if {code for code, _ in turns} == {NOTHING_LEFT}:
            return open_study(open_store(str(study.store))).state
    raise AssertionError("the study did not finish")


def architectures(state: StudyState) -> set[str]:
    return {
        json.dumps(plan.configuration["architecture"], sort_keys=True)
        for plan in state.site_plans.values()
    }


def check(state: StudyState, *, rounds: int, store: str, folder: Path) -> None:
    assert state.finished is not None
    assert not state.rejected
    assert len(architectures(state)) >= 2
    assert not state.fingerprints
    shared, reader = shared_by(state), open_study(open_store(store)).store
    for version in range(1, rounds + 1):
        took_part = {n: p.sites for p in state.rounds[version].participation for n in p.tensors}
        assert took_part == shared
    for site, plan in state.site_plans.items():
        assert (site, rounds, "full") in state.evaluations
        assert state.plan.coverage[site] >= state.charter.asym.min_coverage
        update = state.updates[site, 0]
        path = folder / "update.safetensors"
        reader.download(update.payload.key, path, max_bytes=update.payload.size)
        with TensorFile(path) as file:
            names = {name.partition("#")[0] for name in file.names}
        path.unlink()
        assert names == {name for name, sites in shared.items() if site in sites}
        assert len(names) <= len(plan.tensors)


def predict(host: Host, store: str, site: str, folder: Path, image: Path) -> None:
    """Export at the site and let nnU-Net's own command predict."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point  # noqa: PLC0415  heavy

    output = folder / f"model-{site}"
    made = json.loads(host.run("export", store, "--site", site, "-o", str(output), "--json"))
    card = Path(made["models"][0]["folder"], "MODEL_CARD.md").read_text()
    assert f"This model is that of {site}" in card
    images = folder / f"images-{site}"
    images.mkdir()
    (images / image.name).symlink_to(image.resolve())
    command = made["predict_commands"][0].replace("IMAGES", str(images)).split()
    command[command.index("PREDICTIONS")] = str(folder / f"out-{site}")
    code, out, err = call(
        predict_entry_point, *command, "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1",
        env={**host.environment(), "nnUNet_results": str(output)},
    )  # fmt: skip
    made_of = folder / f"out-{site}" / image.name.replace("_0000", "")
    assert code == 0
    assert made_of.is_file(), out + err


TRAINER = "nnUNetTrainerOfTheSites"


class HostWithTrainer(HostHere):
    """A host whose operator has put a trainer where nnU-Net looks, and allows it."""

    def environment(self) -> dict[str, str]:
        trainers = self.folder / "trainers"
        trainers.mkdir(exist_ok=True)
        (trainers / "of_the_sites.py").write_text(
            "from nnunetv2.training.nnUNetTrainer.variants.data_augmentation"
            ".nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring\n"
            f"class {TRAINER}(nnUNetTrainerNoMirroring):\n    pass\n"
        )
        allow = (f"FEDFS_{command}_ALLOW_TRAINER" for command in ("INIT", "AGGREGATE", "EXPORT"))
        return {
            **super().environment(),
            **dict.fromkeys(allow, TRAINER),
            "nnUNet_extTrainer": str(trainers),
        }


def test_two_sites_with_unlike_networks_and_lossy_encodings(
    tmp_path, hosts, phantom_images, in_one_process
):
    """Residual encoder beside plain net, int8 both ways, a proximal term; export at a site.

    In the end each site scores the other's network, and trains alone. The trainer is not nnU-Net's.
    """
    store = str(tmp_path / "store")
    hosts = {name: HostWithTrainer(host.name, host.folder) for name, host in hosts.items()}
    joins = {
        "east": ("--gpu-memory-target", "0.02"),
        "north": ("--gpu-memory-target", "0.01", "--planner", "nnUNetPlannerResEncM"),
    }
    study = begin(
        hosts, store, phantom_images / "dataset.json", "--rounds", "2", "--local-iterations", "3",
        "--encoding", "int8", "--model-encoding", "int8", "--keyframe-every", "2",
        "--strategy", "FedProx", "--min-coverage", "0.1", "--cross-evaluation",
        "--trainer", TRAINER, joins=joins, run=("--local-model", "--allow-trainer", TRAINER),
    )  # fmt: skip
    state = take_turns(study, hosts)
    check(state, rounds=2, store=store, folder=tmp_path)
    assert 0.1 <= min(state.plan.coverage.values()) < 1
    assert [v for v, model in state.models.items() if model.full] == [0, 2]
    case = read_cases(phantom_images)["east"][0]
    predict(hosts["east"], store, "east", tmp_path, phantom_images / f"imagesTr/{case}_0000.nii.gz")
    text = hosts["coordinator"].run("status", store)
    assert "asym" in text
    check_comparison(state, hosts, store, tmp_path)
    check_cases(state, hosts["east"], store)
    check_scores(state, hosts["east"], store)
    assert TRAINER in repr(state)
    assert "of_the_sites" not in repr(state)  # whose copy it is, and where, is each site's business
    assert list(hosts["east"].results.glob(f"Dataset*/{TRAINER}__*/fold_0/checkpoint_final.pth"))


def check_comparison(
    state: StudyState, hosts: Mapping[str, Host], store: str, folder: Path
) -> None:
    """Every model at every site, and each site's own of its data alone, also in the report."""
    for site, other in (("east", "north"), ("north", "east")):
        scores = [state.evaluations[site, 2, name] for name in ("full", "local", f"of-{other}")]
        assert len({score.n_cases for score in scores}) == 1
        assert all(0 <= score.mean_dice <= 1 for score in scores)
        alone = list(hosts[site].results.glob("fedfs/*/*/local-model/Dataset*/*"))
        assert [(path / "fold_0" / "checkpoint_final.pth").is_file() for path in alone] == [True]
    hosts["coordinator"].run("report", store, "-o", str(folder / "report.html"))
    said = hosts["coordinator"].run("report", store, "--json")
    report = json.loads(said)
    assert [row["site"] for row in report["local"]] == ["east", "north"]
    assert [row["model"] for row in report["matrix"]] == ["east", "north"]
    page = (folder / "report.html").read_text()
    few_cases, enough = "Local against federated", "federated minus local"
    assert few_cases in page or enough in page


def check_cases(state: StudyState, host: Host, store: str) -> None:
    """The page of a site's own cases has the scores that the site published the means of."""
    command = ("site", "cases", store, "--site", "east")
    with pytest.raises(FedfsError, match="lies in the study's store"):
        host.run(*command, "-o", f"{store}/cases.html")
    page = host.folder / "cases.html"
    told = json.loads(host.run(*command, "-o", str(page), "--json"))
    assert told["page"] == str(page)
    assert told["models"] == ["local", "federated"]
    assert told["n_shown"] == len(told["cases"]) == state.evaluations["east", 2, "full"].n_cases
    for model, variant in (("local", "local"), ("federated", "full")):
        published = state.evaluations["east", 2, variant]
        for name, score in published.classes.items():
            dice = [case["dice"][model][name] for case in told["cases"]]
            assert fmean(d for d in dice if d is not None) == pytest.approx(score.dice)
            found = [case["hd95_mm"][model].get(name) for case in told["cases"]]
            distances = [mm for mm in found if mm is not None]
            assert (fmean(distances) if distances else None) == pytest.approx(score.hd95_mm)
    assert page.stat().st_mode & 0o777 == 0o600
    assert page.read_text().count("data:image/png") >= told["n_shown"]


def check_scores(state: StudyState, host: Host, store: str) -> None:
    """The site's own list of cases has what it published distributions of, and stays there."""
    command = ("site", "scores", store, "--site", "east")
    told = json.loads(host.run(*command, "--json"))["cases"]
    variants = ("local", "full", "of-north")
    assert list(dict.fromkeys(row["variant"] for row in told)) == list(variants)
    for variant in variants:
        published = state.evaluations["east", 2, variant]
        rows = [row["metrics"] for row in told if row["variant"] == variant]
        assert len(rows) == published.n_cases
        for metric, summary in published.metrics.items():
            known = [row[metric] for row in rows if metric in row]
            assert (len(known), fmean(known)) == (summary.n, pytest.approx(summary.mean))
    assert "local: local model, version 2" in host.run(*command)
    file = host.folder / "scores.csv"
    assert "It names cases" in host.run(*command, "-o", str(file))
    assert all(row["case"] in file.read_text() for row in told)
    with pytest.raises(FedfsError, match="no-such"):
        host.run(*command, "--variant", "no-such")


@slow
@pytest.mark.xdist_group("spinalcord")
def test_institutions_each_with_a_plan_of_its_own(tmp_path, shared_data, record_property):
    """Real images of really different geometry; a tiny budget, to a finished federation."""
    source = shared_data / "spinalcord_gm_multisite"
    hosts = {"coordinator": Host("coordinator", tmp_path / "coordinator").make()}
    joins = {}
    for institution, cases in read_cases(source).items():
        site = institution.lower()
        hosts[site] = Host(site, tmp_path / site).make()
        hosts[site].write_policy(LENIENT_POLICY)
        place_dataset(source, hosts[site].raw / DATASET, cases)
        joins[site] = ()
    store = str(tmp_path / "store")
    study = begin(
        hosts, store, source / "dataset.json", "--rounds", "1", "--local-iterations", "2",
        "--fold", "all", "--gpu-memory-target", "0.5", joins=joins,
    )  # fmt: skip
    deadline_s = time.monotonic() + TIMEOUT_S

    def look() -> None:
        assert time.monotonic() < deadline_s, {n: h.log_tail() for n, h in hosts.items()}

    study.federate(look)
    state = open_study(open_store(store)).state
    check(state, rounds=1, store=store, folder=tmp_path)
    record_property("coverage", dict(state.plan.coverage))
    assert len(architectures(state)) >= 2  # of 7 and 6 stages
    case = read_cases(source)["Milan"][0]
    predict(hosts["milan"], store, "milan", tmp_path, source / f"imagesTr/{case}_0000.nii.gz")
