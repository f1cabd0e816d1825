"""Krum: the update that lies closest to others (Blanchard et al., NeurIPS 2017)."""

from dataclasses import dataclass, field

from fedfs.aggregation.strategies.multikrum import MultiKrum


@dataclass(frozen=True, kw_only=True)
class Krum(MultiKrum):
    """One update is taken as it is, the others are dropped; see :class:`MultiKrum`.

    Options:
        num_malicious_nodes: attackers to tolerate, f; needs at least 2 f + 3 updates unless 0.
    """

    num_nodes_to_select: float = field(default=1, init=False)
