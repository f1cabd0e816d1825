"""The command line: parse, build a configuration, call one function, print.

Exit codes are in :mod:`fedfs.cli.exit_codes`. Nothing heavy is imported before a command needs it.
"""

import sys

import click

from fedfs import __version__
from fedfs.cli.aggregator import aggregate
from fedfs.cli.command import OUTPUT, Option, group, option
from fedfs.cli.coordinator import approve, close_round, pause, remove, resume
from fedfs.cli.courier import bundle, sync
from fedfs.cli.demo import demo
from fedfs.cli.deploy import deploy
from fedfs.cli.doctor import doctor
from fedfs.cli.exit_codes import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    end_as_terminated,
    terminated_by_sigterm,
    terminated_with_input,
)
from fedfs.cli.helper import helper
from fedfs.cli.key import key
from fedfs.cli.privacy import privacy
from fedfs.cli.reader import export, log, verify
from fedfs.cli.report import report
from fedfs.cli.simulation import simulate
from fedfs.cli.site import site
from fedfs.cli.spelling import name_variables
from fedfs.cli.status import status
from fedfs.cli.study import charter, init
from fedfs.cli.terminal import show_error
from fedfs.errors import FedfsError, SetupError, Terminated

_EPILOG = f"""{EXIT_CODES}\
FEDFS_STORE and FEDFS_SITE, or a fedfs.toml in /etc/fedfs or ~/.config/fedfs, serve
every command: STORE and --site can then be left out. All options can be set so
(FEDFS_SITE_RUN_DEVICE=cuda, or device in [site.run]). FEDFS_HOME: where keys are.
"""


@group(
    example="fedfs status /mnt/share/organ",
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "FEDFS", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, cls=Option, section=OUTPUT)
@option(
    "--config",
    type=click.Path(dir_okay=False),
    is_eager=True,  # so that no file can name another
    help="TOML file with one table per command, e.g. [site.run].",
)
@click.pass_context
def fedfs(context: click.Context, config: str | None) -> None:
    """Train one nnU-Net across hospitals.

    They share nothing but files in a folder or a bucket.
    """
    from pathlib import Path

    from fedfs.cli.configuration import configure

    configure(context, None if config is None else Path(config))


_COMMANDS = {
    "Try it": (demo, simulate),
    "Coordinator": (init, approve, pause, resume, remove, close_round),
    "Site": (site,),
    "Aggregator": (aggregate,),
    "Helper": (helper,),
    "Every host": (doctor, deploy, key),
    "Everybody who can read the store": (status, charter, report, log, privacy, export, verify),
    "Courier": (bundle, sync),
}
for _title, _commands in _COMMANDS.items():
    for _command in _commands:
        fedfs.add_command(_command)
        fedfs.titles[str(_command.name)] = _title
name_variables(fedfs, "FEDFS")


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        with terminated_by_sigterm():
            terminated_with_input()
            code = fedfs.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        show_error("The command was interrupted.", hint="start the same command again to go on")
        sys.exit(EXIT_INTERRUPTED)
    except Terminated:
        show_error("The command was terminated.", hint="start the same command again to go on")
        end_as_terminated()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FedfsError as error:
        show_error(error.local_text, hint=error.hint)
        sys.exit(error.exit_code)
    except OSError as error:  # a local file: stores and learners have errors of their own
        show_error(
            f"{error.filename or 'a local file'} cannot be used: {error.strerror or error}.",
            hint="is this host's disk full, or a folder not writable? nothing on the store is lost",
        )
        sys.exit(SetupError.exit_code)
