"""The safetensors library as a second reader beside fedfs's own."""

import json

import numpy as np
import pytest

from fedfs.errors import TensorError
from fedfs.tensors import canonical as checkpoint
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_library import check_both_readers
from support.tensor_files import OTHERS, TENSORS, entry, forged, stream


def test_the_library_agrees_with_our_reader_on_files_of_either_writer(tmp_path):
    tensors = {**TENSORS, **OTHERS, "flags": np.array([True, False])}
    checkpoint.write_safetensors(tmp_path / "whole", tensors, dtypes={"half": "BF16"})
    stream(tmp_path / "streamed", tensors, dtypes={"half": "BF16"})
    stream(tmp_path / "plain", TENSORS, metadata={"a": "1", "b": "2"})
    for path in tmp_path.iterdir():
        check_both_readers(path)


def test_readers_that_disagree_are_a_finding(tmp_path, monkeypatch):
    path, read, shape = tmp_path / "t", TensorFile.read, TensorFile.shape
    checkpoint.write_safetensors(path, TENSORS)
    for name, change, reason in [
        ("read", lambda self, name: read(self, name) + np.float32(1), "'a' has other values"),
        ("dtype", lambda self, name: "F16", "is F32"),
        ("shape", lambda self, name: (1, *shape(self, name)), r"is F32 \[\], not F32 \[1\]"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(TensorFile, name, change)
            with pytest.raises(TensorError, match=reason):
                check_both_readers(path)
    path.write_bytes(forged(b'{"t":%b,"t":%b}' % ((json.dumps(entry()).encode(),) * 2)))
    with pytest.raises(TensorError):  # the library takes the second of two equal names
        check_both_readers(path)
