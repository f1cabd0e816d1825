"""The command that compares federation with its alternatives, on one machine or a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import HOST, OUTPUT, ROUNDS, STUDY, TRAINING, argument, command, option
from fedfs.cli.options import FOLDER, default_option, device_option, log_format_option
from fedfs.cli.terminal import show_event, show_json, show_table, start_logging
from fedfs.roles.log_format import JSON

if TYPE_CHECKING:
    from fedfs.simulation.table import Cell, ExperimentResult


@command(example="fedfs simulate out --data Dataset042_Organ --arms local,ffe --rounds 5")
@argument("folder", type=FOLDER, help="Folder of the experiment; it goes on where it was.")
@option(
    "--data",
    multiple=True,
    required=True,
    metavar="DIR | SITE=DIR",
    help="nnU-Net raw dataset with cases.csv (case,site); or one of each site, repeated.",
)
@default_option(
    "--arms",
    default="local,ffe,asym,central",
    names=lambda: ("local", "ffe", "asym", "central"),
    section=STUDY,
    help="What to compare: sites alone, federated in mode ffe, in mode asym, all data together.",
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
    folder: Path,
    *,
    data: tuple[str, ...],
    seeds: str,
    init: tuple[str, ...],
    as_json: bool,
    log_format: str,
    **others: Any,
) -> None:
    """Compare federation with its alternatives.

    Sites alone, federated in both modes, and all data in one place, in FOLDER. Every arm is a real
    study of real processes. Given again, the command goes on where it was.
    """
    from fedfs.simulation.experiment import Experiment, ExperimentOptions
    from fedfs.simulation.hosts import ended_with_us

    if not all(text.strip().isdecimal() for text in seeds.split(",")):
        raise click.UsageError(f"--seeds {seeds} is not a list of numbers, such as 1,2,3.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("arms", "folds", "configurations", "gpus"):
        others[name] = [part.strip() for part in others[name].split(",") if part.strip()]
    options = ExperimentOptions(
        folder=folder.resolve(),
        data=_pooled(data, folder.resolve()),
        seeds=[int(seed) for seed in seeds.split(",")],
        init=[word for option in init for word in option.split("=", 1)],
        **others,
    )
    if log_format == JSON:
        start_logging(log_format=JSON)

    def log(text: str) -> None:
        show_event(text if log_format == JSON else f"- {text}", err=as_json)

    with ended_with_us():
        result = Experiment(options, log=log).run()
    if as_json:
        show_json(result)
        return
    click.echo("\nDice, and HD95 in mm, of cases that no arm trained on\n")
    show_table(*table(result))
    click.echo(f"\nEach study has its report: {folder}/*/**/store/aggregator/reports/")


def stores_of_simulation(place: str) -> list[Path]:
    """Return the stores of the studies in a simulation's folder; none if it is no such folder."""
    folder = Path(place)
    if "://" in place or not (folder / "options.json").is_file():
        return []
    return sorted(path.parent for path in folder.glob("*/*/store/federation"))


def _pooled(data: tuple[str, ...], folder: Path) -> Path:
    """Return the dataset that ``--data`` names, or makes of several."""
    from fedfs.simulation.cases import pool, site_name

    if len(data) == 1 and (Path(data[0]).exists() or "=" not in data[0]):
        return Path(data[0]).resolve()
    pairs = [text.partition("=") for text in data]
    for site, sign, place in pairs:
        if not sign or not place:
            raise click.UsageError(
                f"--data {site} is not SITE=DIR, as each of several datasets has to be."
            )
    sources = {
        site_name(site, lambda text: click.echo(f"- {text}", err=True)): Path(place).resolve()
        for site, _, place in pairs
    }
    if len(sources) < len(pairs):
        raise click.UsageError("--data names a site twice; a site has one dataset.")
    return pool(sources, folder / "data")


def table(result: ExperimentResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heading and rows: methods by sites, as in the paper."""
    sites = [*result.n_training_cases, "mean", *([result.external] if result.external else [])]
    names = {result.external: f"{result.external} (external)"} if result.external else {}
    rows = [(arm, *(_cell(row[site]) for site in sites)) for arm, row in result.cells.items()]
    return ("method", *(names.get(site, site) for site in sites)), rows


def _cell(cell: Cell) -> str:
    spread = f" ± {cell.dice_sd:.3f}" if cell.dice_sd is not None else ""
    distance = f"  {cell.hd95_mm:.1f}" if cell.hd95_mm is not None else ""
    return f"{cell.dice:.3f}{spread}{distance}"
