"""Calls of nnU-Net: its variables set, its output captured, its errors translated."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fedfs.errors import FedfsError
from fedfs.nnunet.system.environment import NnUNetPaths, set_variables
from fedfs.nnunet.system.failures import translate
from fedfs.nnunet.system.output import Captured, capture_output
from fedfs.nnunet.system.workers import single_process_pools_are_threads


@contextmanager
def nnunet_call(paths: NnUNetPaths, logger: logging.Logger) -> Iterator[Captured]:
    """Surround calls of nnU-Net.

    Args:
        paths: nnU-Net's folders.
        logger: takes what it prints.

    Raises:
        TrainingError: nnU-Net raised something.
    """
    with (
        set_variables(paths.variables()),
        single_process_pools_are_threads(),
        capture_output(logger) as output,
    ):
        try:
            yield output
        except FedfsError:
            raise
        except Exception as error:
            raise translate(error) from error
