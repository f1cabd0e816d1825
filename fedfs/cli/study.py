"""Commands about a study's charter: ``init`` writes it, ``charter`` shows it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import command, option
from fedfs.cli.options import json_option, store_argument
from fedfs.cli.study_file import located, study_file_argument
from fedfs.cli.study_options import study_options
from fedfs.cli.terminal import show_json, show_pairs, show_table
from fedfs.errors import FedfsError, UserError
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.protocol.messages import Charter, Continued
    from fedfs.roles.coordinator.evaluation import NamedModel
    from fedfs.roles.coordinator.options import StudyOptions


@command(example="fedfs init /mnt/share/organ study.toml")
@store_argument
@study_file_argument
@option("--dry-run", is_flag=True, is_eager=True, help="Show the charter, and write nothing.")
@study_options
@json_option
def init(store: StorePlace, *, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Start a study.

    Writes its charter to STORE, and makes the keys of coordinator and aggregator on this host.
    All that is chosen can stand in a file, STUDY.TOML.
    """
    try:
        charter, continues = _begin(store, is_dry=dry_run, **options)
    except FedfsError as error:
        raise located(error) from error.__cause__
    if dry_run:
        _show_draft(charter, as_json=as_json)
    else:
        _show_begun(charter, continues, store, as_json=as_json)


def _begin(store: StorePlace, *, is_dry: bool, dataset_json: Path | None, pretrained: Path | None,
           continued: str | None, continue_track: str | None, evaluate: tuple[str, ...],
           one_aggregator: bool, allowed_trainers: tuple[str, ...], **options: Any,
           ) -> tuple[Charter, Continued | None]:  # fmt: skip
    """Start a study, or only draft its charter; return it, and the study that it continues."""
    from fedfs.aggregation.strategies import package_of
    from fedfs.nnunet.allowed.classes import versions
    from fedfs.roles.coordinator.begin import draft_study, init_study
    from fedfs.roles.coordinator.continuing import read_finished
    from fedfs.roles.coordinator.options import StudyOptions, about, read_dataset_json
    from fedfs.roles.doctor.store_checks import require_atomic_create
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault

    if dataset_json is None and continued is None and not evaluate:
        raise click.UsageError("Missing option '--dataset-json'.")
    if pretrained is not None and continued is not None:
        text = "A study begins with --pretrained or with --continue, not with both."
        raise UserError(text).of("pretrained", "continued")
    options["target_spacing"] = options["target_spacing"] or None
    if dataset_json is not None:
        with about("dataset_json"):
            options["dataset_json"] = read_dataset_json(dataset_json)
    with tempfile.TemporaryDirectory() as folder:
        continues = None
        if continued is not None:
            vault = Vault(default_home())
            with about("continued", "continue_track"):
                old = open_store(StorePlace(continued, store.s3))
                finished = read_finished(old, Path(folder), continue_track, vault)
            options = finished.options(_given(options))
            continues, pretrained = finished.continues, finished.weights
        models, options = _models_to_evaluate(
            evaluate, options, Path(folder), allowed_trainers,
            dataset_json=dataset_json, pretrained=pretrained, continued=continued,
        )  # fmt: skip
        chosen = StudyOptions(**options)
        if pretrained is not None and "," in chosen.configuration:
            text = "--pretrained is the network of one configuration, not of several."
            raise UserError(text).of("pretrained", "configuration")
        place = open_store(store, must_exist=False)
        if not (is_dry or one_aggregator or store.is_folder):
            require_atomic_create(place)
        _check_classes(chosen, allowed_trainers, Path(folder))
        if pretrained is not None and continues is None:
            pretrained = _converted(pretrained, Path(folder))
        software = {**versions(), **package_of(chosen.strategy)}
        start: dict[str, Any] = {
            "versions": software, "pretrained": pretrained, "continues": continues,
            "evaluates": models,
        }  # fmt: skip
        if is_dry:
            return draft_study(place, chosen, **start), continues
        charter = init_study(place, default_home(), chosen, clock=time.time, **start)
        return charter, continues


def _models_to_evaluate(
    places: tuple[str, ...],
    options: dict[str, Any],
    folder: Path,
    allowed_trainers: tuple[str, ...],
    **others: object,
) -> tuple[tuple[NamedModel, ...], dict[str, Any]]:
    """Return the models of a study that trains nothing, and its options; none of any other."""
    from fedfs.roles.coordinator.evaluation import check_choices, evaluation_options, read_models
    from fedfs.roles.coordinator.options import about

    if not places:
        return (), options
    given = _given(options)
    check_choices([*given, *(name for name, value in others.items() if value)])
    with about("evaluate"):
        models = read_models(places, folder, allowed_trainers=allowed_trainers)
    return models, evaluation_options(models, given)


def _converted(checkpoint: Path, folder: Path) -> Path:
    """Return a file of the tensors of a checkpoint."""
    from fedfs.nnunet.system.isolated import run_isolated
    from fedfs.roles.coordinator.options import about

    made = folder / "pretrained.safetensors"
    request = {"checkpoint": str(checkpoint.absolute()), "output": str(made)}
    with about("pretrained"):
        run_isolated("convert_checkpoint", request, workdir=folder)
    return made


def _show_draft(charter: Charter, *, as_json: bool) -> None:
    from fedfs.roles.reader.charter import describe

    sections = describe(charter)
    if as_json:
        show_json({"sections": sections})
        return
    _show_sections(sections)
    click.echo("\nNothing was written. Without --dry-run the same command starts this study.")


def _show_begun(
    charter: Charter, continues: Continued | None, store: StorePlace, *, as_json: bool
) -> None:
    from fedfs.trust.signing import key_fingerprint

    facts = {
        "study": charter.study,
        "coordinator key": key_fingerprint(charter.coordinator_key),
        "aggregator key": key_fingerprint(charter.aggregator_key),
        "store": str(store),
    }
    if continues is not None:
        facts["continues"] = f"version {continues.version} of {continues.study}"
    if as_json:
        show_json({name.replace(" ", "_"): value for name, value in facts.items()})
        return
    show_pairs(facts)
    click.echo(
        f"\nNext, at every site:  fedfs site join {store} --site NAME --dataset DatasetXXX_NAME"
    )
    click.echo(f"then here:            fedfs approve {store} --all")
    click.echo(f"and, as a service:    fedfs aggregate {store}")


@command(example="fedfs charter /mnt/share/organ")
@store_argument
@json_option
def charter(store: StorePlace, *, as_json: bool) -> None:
    """Show what a study is, and its amendments.

    All that the coordinator has chosen, who takes part with which key, and what each amendment
    of the charter has changed.
    """
    from fedfs.exchange.read import open_study
    from fedfs.protocol import codec
    from fedfs.protocol.areas import NO_SITE
    from fedfs.roles.reader.charter import amendments, describe
    from fedfs.trust.signing import key_fingerprint

    state = open_study(open_store(store), site=NO_SITE).state
    last = state.charter.whole()
    sections, history = describe(last), amendments(state.charters)
    keys = [
        ("coordinator", "signs charters", key_fingerprint(last.coordinator_key)),
        ("aggregator", "makes versions", key_fingerprint(last.aggregator_key)),
        *((entry.site, entry.state, key_fingerprint(entry.public_key)) for entry in last.roster),
    ]
    if as_json:
        names = ("who", "state", "key")
        members = [dict(zip(names, row, strict=True)) for row in keys]
        show_json(
            {
                "study": last.study,
                "number": last.number,
                "sections": sections,
                "members": members,
                "amendments": history,
                "charter": codec.to_json(last),
            }
        )
        return
    _show_sections(sections)
    click.echo("")
    show_table(("takes part", "as", "key fingerprint"), keys)
    click.echo("")
    rows = []
    for one in history:
        first, *others = one.changes or ("the study began",)
        rows += [(str(one.number), one.at, first), *(("", "", change) for change in others)]
    show_table(("charter", "signed at", "what it changed"), rows)


def _show_sections(sections: Mapping[str, Mapping[str, str]]) -> None:
    for number, (title, facts) in enumerate(sections.items()):
        click.echo(("\n" if number else "") + click.style(title, bold=True))
        show_pairs({f"  {name}": text for name, text in facts.items()})


def _check_classes(chosen: StudyOptions, allowed_trainers: tuple[str, ...], folder: Path) -> None:
    """Check that nnU-Net has the trainer and the planner of a study."""
    from fedfs.nnunet.system.isolated import run_isolated
    from fedfs.roles.coordinator.options import about

    usual = type(chosen)
    if chosen.trainer != usual.trainer:
        check = {"trainer": chosen.trainer, "allowed_trainers": allowed_trainers}
        with about("trainer"):
            run_isolated("check_trainer", check, workdir=folder)
    if chosen.planner != usual.planner:
        with about("planner"):
            run_isolated("check_planner", {"planner": chosen.planner}, workdir=folder)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that somebody has set, defaults left out."""
    source = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    return {
        name: value
        for name, value in options.items()
        if value is not None and source(name) is not default
    }
