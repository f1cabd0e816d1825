"""Names that people give, and what is refused."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.protocol import values


@pytest.mark.parametrize("name", ["", "North", "-a", "a-", "a_b", "a/b", "..", "a" * 33, "ü"])
def test_site_names_that_do_not_fit_into_keys_are_refused(name):
    with pytest.raises(UserError, match="not usable"):
        values.check_site(name)
