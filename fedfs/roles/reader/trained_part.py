"""The part of a network that a study trains, for people: what, of how much, in how many bytes."""

from fedfs.protocol.messages import Charter, TrackCharter
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.units import format_count, format_size


def describe_part(charter: Charter) -> str:
    """Return which tensors a study trains, as the charter says; "" for all of them."""
    part = charter.train_only
    if part is None:
        return ""
    frozen = format_count(part.n_frozen, "parameter")
    return f"{', '.join(part.patterns)}; {frozen} stay as they were given"


def trained_here(state: StudyState) -> str:
    """Return what a track trains and what that takes on the line; "" for a whole network.

    Sizes are those of the newest version, and of the newest update that is known.
    """
    charter: TrackCharter = state.charter
    part = charter.train_only
    if part is None:
        return ""
    text = ", ".join(part.patterns)
    if state.newest < 0:
        return f"{text}; {format_count(part.n_frozen, 'parameter')} are frozen"
    model = state.models[state.newest]
    n_all = model.n_parameters + part.n_frozen
    text += f": {model.n_parameters:,} of {format_count(n_all, 'parameter')}; each round "
    text += f"{format_size(model.payload.size)} to a site"
    sizes = {version: update.payload.size for (_, version), update in state.updates.items()}
    sizes |= {one.base_version: one.size for r in state.rounds.values() for one in r.updates}
    if sizes:
        text += f" and {format_size(sizes[max(sizes)])} from it"
    return text
