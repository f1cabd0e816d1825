"""Flower's SecAgg+ on one update of so many values, run by ``bench/secure.py``.

This runs Flower's own workflow and client modifier, unchanged, in one process; only the network is
left out. It needs an environment that has flwr and nothing of fedfs.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import resource
import time
from collections.abc import Iterable
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity


class Proxy(ClientProxy):
    """A client that is only known by its number."""

    def __init__(self, number: int) -> None:
        super().__init__(str(number))
        self.node_id = number

    def fit(self, *_: Any, **__: Any) -> Any: ...
    def evaluate(self, *_: Any, **__: Any) -> Any: ...
    def get_parameters(self, *_: Any, **__: Any) -> Any: ...
    def get_properties(self, *_: Any, **__: Any) -> Any: ...
    def reconnect(self, *_: Any, **__: Any) -> Any: ...


class Grid:
    """Carries messages to clients in this process, and counts."""

    def __init__(self, updates: dict[int, list[np.ndarray]], dropped: set[int]) -> None:
        self.updates, self.dropped = updates, dropped
        self.contexts = {n: context(n) for n in updates}
        self.client_s = dict.fromkeys(updates, 0.0)
        self.up_bytes = dict.fromkeys(updates, 0)
        self.n_trips = 0

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        self.n_trips += 1
        replies = []
        for sent in messages:
            message = copy.deepcopy(sent)  # as a network does
            number = message.metadata.dst_node_id
            if number in self.dropped and self.n_trips > 2:
                continue
            began_s = time.process_time()
            reply = secaggplus_mod(message, self.contexts[number], self.train)
            self.client_s[number] += time.process_time() - began_s
            self.up_bytes[number] += sum(map(n_bytes, reply.content.config_records.values()))
            replies.append(reply)
        return replies

    def train(self, message: Message, _: Context) -> Message:
        number = message.metadata.dst_node_id
        parameters = ndarrays_to_parameters(self.updates[number])
        result = FitRes(Status(Code.OK, ""), parameters, 10 * number, {})
        return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def n_bytes(record: ConfigRecord) -> int:
    total = 0
    for value in record.values():
        for item in value if isinstance(value, list) else [value]:
            total += len(item) if isinstance(item, bytes) else 8
    return total


def context(number: int) -> Context:
    return Context(
        run_id=1, node_id=number, node_config={}, state=RecordDict(), run_config={}, series_id=0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, required=True)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--dropped", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    n, numbers = options.values, range(1, options.sites + 1)
    updates = {i: [np.full(n, i / 8, np.float32)] for i in numbers}
    left = set(list(numbers)[: options.dropped])
    grid = Grid(updates, left)
    clients = SimpleClientManager()
    for number in numbers:
        clients.register(Proxy(number))
    strategy = FedAvg(min_fit_clients=options.sites, min_available_clients=options.sites)
    server = LegacyContext(context(0), strategy=strategy, client_manager=clients)
    server.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    initial = ndarrays_to_parameters([np.zeros(n, np.float32)])
    server.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        initial, keep_input=True
    )
    began_s = time.process_time()
    SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.6)(grid, server)
    all_s = time.process_time() - began_s
    record = server.state.array_records[MAIN_PARAMS_RECORD]
    found = compat.arrayrecord_to_parameters(record, keep_input=True)
    counted = [i for i in numbers if i not in left]
    expected = sum(i * i / 8 for i in counted) / sum(counted)
    error = float(np.abs(parameters_to_ndarrays(found)[0] - expected).max())
    assert error < 1e-3, error
    clients_s = sum(grid.client_s[i] for i in counted) / len(counted)
    print(
        json.dumps(
            {
                "version": flwr.__version__,
                "site_s": clients_s,
                "server_s": all_s - sum(grid.client_s.values()),
                "up_bytes": max(grid.up_bytes.values()),
                "trips": grid.n_trips,
                "peak_mb_all_in_one_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                / 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
