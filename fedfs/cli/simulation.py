"""The command that compares federation with its alternatives, on one machine or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import HOST, OUTPUT, ROUNDS, STUDY, TRAINING, argument, command, option
from fedfs.cli.options import FILE, FOLDER, default_option, device_option, log_format_option
from fedfs.cli.terminal import show_event, show_json, show_table, start_logging
from fedfs.roles.log_format import JSON

if TYPE_CHECKING:
    from fedfs.simulation.site_lists import SiteList


def _arms() -> tuple[str, ...]:
    from fedfs.simulation.arms import ARMS

    return tuple(ARMS)


@command(example="fedfs simulate out --data Dataset042_Organ --arms local,ffe --rounds 5")
@argument(
    "folder",
    type=FOLDER,
    required=False,
    help="Folder of the experiment; it goes on where it was. Not with --forecast.",
)
@option(
    "--data",
    multiple=True,
    metavar="DIR | SITE=DIR",
    help="nnU-Net raw dataset with cases.csv (case,site); or one of each site, repeated.",
)
@option(
    "--sites",
    type=FILE,
    metavar="FILE",
    help="Table (CSV) that says which site a case of --data is from, instead of cases.csv.",
)
@default_option("--case-column", default="case", help="Column of --sites: case, or patient.")
@default_option("--site-column", default="site", help="Column of --sites: site.")
@default_option(
    "--arms",
    default="local,ffe,asym,central",
    names=_arms,
    section=STUDY,
    help="What to compare: {names}.",
)
@option(
    "--reference",
    names=_arms,
    section=STUDY,
    metavar="ARM",
    help="Arm that the others are compared with; default: local.",
)
@option(
    "--trace",
    metavar="FILE | NAME",
    section=STUDY,
    help="Consortium (TOML), for --forecast: speed, line and hours of each site.",
)
@option(
    "--forecast",
    is_flag=True,
    section=STUDY,
    help="Train nothing: say when the study of --trace will end, and who waits for whom.",
)
@default_option(
    "--policy",
    "policies",
    multiple=True,
    default=["all"],
    metavar="NAME[,OPTION=VALUE...]",
    section=STUDY,
    help="Policy to forecast, e.g. quorum,sites=6,grace=adaptive. Repeatable.",
)
@default_option(
    "--encoding",
    "encodings",
    multiple=True,
    default=["fp32"],
    metavar="UPDATES[/VERSIONS]",
    section=STUDY,
    help="Encoding to forecast, e.g. topk,fraction=0.05/int8. Repeatable.",
)
@option(
    "--external",
    metavar="SITE",
    section=STUDY,
    help="Site that trains nothing, and tests all models.",
)
@default_option("--folds", default="0", section=TRAINING, help="Folds, e.g. 0,1,2,3,4; or all.")
@default_option("--seeds", default="1", section=TRAINING, help="Seeds, e.g. 1,2,3.")
@default_option("-c", "--configuration", "configurations", default="2d", section=TRAINING,
              help="Configurations, e.g. 2d,3d_fullres.")  # fmt: skip
@default_option("--rounds", default=20, section=ROUNDS, help="Global versions to make.")
@default_option(
    "--local-iterations", default=50, section=ROUNDS, help="Iterations per round and site."
)
@default_option("--val-iterations", default=5, section=ROUNDS, help="Validation iterations.")
@option(
    "--learning-rate",
    type=float,
    section=TRAINING,
    help="Learning rate that all trainings begin with; default: the trainer's.",
)
@option(
    "--no-final-validation",
    is_flag=True,
    section=TRAINING,
    help="Sites do not validate the last version, which takes long; the table does not need it.",
)
@option(
    "--mirroring",
    is_flag=True,
    section=TRAINING,
    help="Predict test cases with nnU-Net's test-time augmentation.",
)
@default_option(
    "--test-share",
    default=0.25,
    section=STUDY,
    help="Share of each site's cases that is kept to test.",
)
@option(
    "--init",
    "init",
    multiple=True,
    metavar="OPTION",
    section=STUDY,
    help="Option of fedfs init with its value, e.g. strategy=FedAvgM. Repeatable.",
)
@option(
    "--run",
    "site_run",
    multiple=True,
    metavar="OPTION",
    section=STUDY,
    help="Option of fedfs site run with its value, e.g. personal-share=0.5. Repeatable.",
)
@device_option
@option("--gpus", default="", section=HOST, help="GPUs, e.g. 0,1, given to the sites in turn.")
@default_option(
    "--at-once", default=0, section=HOST, help="Sites that work at the same time; 0: all."
)
@option(
    "--cluster",
    type=click.Choice(["slurm", "local"]),
    section=HOST,
    help="Run a job for each site and round, of SLURM or here; default: processes here.",
)
@option(
    "--slurm",
    multiple=True,
    metavar="NAME=VALUE",
    section=HOST,
    help="Parameter of SLURM, e.g. partition=gpu. Repeatable.",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section=OUTPUT,
    help="Print JSON, and progress to stderr.",
)
@log_format_option
def simulate(
    folder: Path | None,
    *,
    data: tuple[str, ...],
    trace: str | None,
    forecast: bool,
    policies: Sequence[str],
    encodings: Sequence[str],
    sites: Path | None,
    case_column: str,
    site_column: str,
    seeds: str,
    init: tuple[str, ...],
    site_run: tuple[str, ...],
    no_final_validation: bool,
    as_json: bool,
    log_format: str,
    **others: Any,
) -> None:
    """Compare federation with its alternatives.

    Sites alone, federated in several ways, and all data in one place, in FOLDER. Every arm is a
    real study of real processes. Given again, the command goes on where it was. The tables are also
    in FOLDER: table.md, table.csv, table.tex.

    With --trace and --forecast nothing is trained and FOLDER is left out: the study of a
    consortium runs in virtual time, in seconds.
    """
    if forecast or trace is not None:
        _show_forecast(trace, policies, encodings, as_json=as_json, is_asked=forecast)
        return
    if folder is None:
        raise click.UsageError("Missing argument 'FOLDER'.")
    if not data:
        raise click.UsageError("Missing option '--data'.")
    from fedfs.simulation.experiment import Experiment, ExperimentOptions
    from fedfs.simulation.hosts import ended_with_us
    from fedfs.simulation.site_lists import SiteList
    from fedfs.simulation.table_text import tables

    if not all(text.strip().isdecimal() for text in seeds.split(",")):
        raise click.UsageError(f"--seeds {seeds} is not a list of numbers, such as 1,2,3.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("arms", "folds", "configurations", "gpus"):
        others[name] = [part.strip() for part in others[name].split(",") if part.strip()]
    if log_format == JSON:
        start_logging(log_format=JSON)

    def log(text: str) -> None:
        show_event(text if log_format == JSON else f"- {text}", err=as_json)

    listed = None if sites is None else SiteList(sites, case_column, site_column)
    options = ExperimentOptions(
        folder=folder.resolve(),
        data=_dataset(data, listed, folder.resolve(), log),
        seeds=[int(seed) for seed in seeds.split(",")],
        init=_words(init),
        site_run=_words(site_run),
        final_validation=not no_final_validation,
        **others,
    )

    with ended_with_us():
        result = Experiment(options, log=log).run()
    if as_json:
        show_json(result)
        return
    for table in tables(result):
        click.echo(f"\n{table.caption}\n")
        show_table(table.heading, table.rows)
    click.echo(f"\nThe tables are in {folder}/table.md, table.csv and table.tex.")
    click.echo(f"Each study has its report: {folder}/*/**/store/aggregator/reports/")


def _show_forecast(
    trace: str | None,
    policies: Sequence[str],
    encodings: Sequence[str],
    *,
    as_json: bool,
    is_asked: bool,
) -> None:
    from fedfs.cli.forecast import read_trace, rules_of, show_forecasts
    from fedfs.simulation.virtual.forecast import forecast

    if trace is None or not is_asked:
        raise click.UsageError("--forecast is of a --trace, and a --trace is for --forecast.")
    context = click.get_current_context()
    given = [
        name
        for name in ("rounds", "local_iterations", "val_iterations")
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    consortium = read_trace(trace, {name: context.params[name] for name in given})
    forecasts = [forecast(consortium, rules) for rules in rules_of(policies, encodings)]
    show_forecasts(consortium, forecasts, as_json=as_json)


def _words(options: tuple[str, ...]) -> list[str]:
    """Return the words of options that are given as OPTION or OPTION=VALUE."""
    words = (option if option.startswith("-") else f"--{option}" for option in options)
    return [word for option in words for word in option.split("=", 1)]


def stores_of_simulation(place: str) -> list[Path]:
    """Return the stores of the studies in a simulation's folder; none if it is no such folder."""
    folder = Path(place)
    if "://" in place or not (folder / "options.json").is_file():
        return []
    return sorted(path.parent for path in folder.glob("*/*/store/federation"))


def _dataset(
    data: tuple[str, ...], sites: SiteList | None, folder: Path, log: Callable[[str], None]
) -> Path:
    """Return the dataset that ``--data`` names, or makes of several or with ``--sites``."""
    from fedfs.simulation.cases import pool, site_name
    from fedfs.simulation.site_lists import assign_sites

    if len(data) == 1 and (Path(data[0]).exists() or "=" not in data[0]):
        source = Path(data[0]).resolve()
        return source if sites is None else assign_sites(source, sites, folder / "data", log=log)
    if sites is not None:
        raise click.UsageError("--sites is for one dataset; SITE=DIR says the site itself.")
    pairs = [text.partition("=") for text in data]
    for site, sign, place in pairs:
        if not sign or not place:
            raise click.UsageError(
                f"--data {site} is not SITE=DIR, as each of several datasets has to be."
            )
    sources = {site_name(site, log): Path(place).resolve() for site, _, place in pairs}
    if len(sources) < len(pairs):
        raise click.UsageError("--data names a site twice; a site has one dataset.")
    return pool(sources, folder / "data")
