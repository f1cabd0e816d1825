"""The code of the documents' site that makes the page of errors."""

from __future__ import annotations

import importlib.util
import sys

from support.code_blocks import ROOT

_spec = importlib.util.spec_from_file_location(
    "error_messages", ROOT / "docs" / "error_messages.py"
)
assert _spec is not None
assert _spec.loader is not None
error_messages = importlib.util.module_from_spec(_spec)
sys.modules["error_messages"] = error_messages  # dataclasses look there
_spec.loader.exec_module(error_messages)
