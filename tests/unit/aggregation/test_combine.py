"""The next version from files: the same bits as from arrays in memory, whoever shares what."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from fedfs.aggregation import fused_sums, strategies, update_reader
from fedfs.aggregation.combine import Combination, Outputs, Written, combine, state_layout
from fedfs.aggregation.strategies import STRATEGIES
from fedfs.aggregation.update_reader import SLICE
from fedfs.errors import StudyError, TensorError
from fedfs.tensors import encodings
from fedfs.tensors.canonical import (
    TensorFile,
    stream_safetensors,
    weights_sha256,
    write_safetensors,
)
from fedfs.tensors.encodings import ENCODINGS

SHAPES = {"bias": (7,), "conv": (40, 1000), "empty": (0, 3), "gain": (), "head": (3, 5, 2)}
WEIGHTS = {"east": 0.1, "north": 0.4, "south": 0.15, "west": 0.3, "york": 0.05}
SHARED_BY = {
    "bias": ("east", "west"),
    "conv": tuple(WEIGHTS),
    "empty": ("north",),
    "gain": ("south",),
    "head": ("elsewhere",),
}
OTHERS = {
    "clipped": ("fedavg", {"clip_norm": 0.5}),
    "momentum": ("fedavgm", {"server_momentum": 0.9}),
    "clipped krum": ("multikrum", {"clip_norm": 0.5, "num_nodes_to_select": 2}),
}
CASES = {**{name: (name, {}) for name in STRATEGIES}, **OTHERS}


@dataclass
class Made:
    """A base and updates, in memory and in files."""

    folder: Path
    encoding: str = "fp32"
    shared_by: dict | None = None
    base: dict = field(default_factory=dict)
    payloads: dict = field(default_factory=dict)

    def __post_init__(self):
        rng = np.random.default_rng(5)
        self.folder.mkdir()
        self.base = {n: np.float32(rng.standard_normal(shape)) for n, shape in SHAPES.items()}
        write_safetensors(self.folder / "base", self.base)
        for site in reversed(WEIGHTS):  # in an order that is not theirs
            trained = {
                n: np.float32(b + 0.01 * rng.standard_normal(b.shape))
                for n, b in self.base.items()
                if site in self.sites(n)
            }
            payload = self.payloads[site] = {}
            for name, values in trained.items():
                payload.update(self.codec.encode(name, values, self.base[name]).payload)
            layout = encodings.payload_layout(self.codec, {n: SHAPES[n] for n in trained})
            write_safetensors(
                self.folder / site, payload, dtypes={n: entry[0] for n, entry in layout.items()}
            )

    @property
    def codec(self):
        return encodings.by_name(self.encoding)

    def sites(self, name):
        return [s for s in sorted(WEIGHTS) if self.shared_by is None or s in self.shared_by[name]]

    def deltas(self, name):
        """Site -> delta of the tensor, in the order of sites."""
        return {
            site: self.codec.decode(name, self.payloads[site], self.base[name])
            for site in self.sites(name)
        }

    def combine(
        self, strategy="fedavg", options=None, *, model="fp32", state=None, version=1,
        folder="out", weights=WEIGHTS, bases=MappingProxyType({}),
    ):  # fmt: skip
        """Return what was written, and the files."""
        out = self.folder / f"{folder}-{version}"
        out.mkdir()
        outputs = Outputs(out / "model", out / "delta", out / "state", out / "ema")
        with TensorFile(self.folder / "base") as base:
            written = combine(
                Combination(
                    base=base,
                    state=state,
                    updates={site: self.folder / site for site in self.payloads},
                    weights=weights,
                    bases=bases,
                    version=version,
                    shared_by=self.shared_by,
                ),
                strategy=strategies.by_name(strategy, options),
                update_encoding=self.codec,
                model_encoding=encodings.by_name(model),
                outputs=outputs,
            )
        return written, outputs

    def expected(self, strategy="fedavg", options=None, *, state=None, version=1):
        """Combine tensor by tensor, in memory; scanned as the protocol says."""
        one = strategies.by_name(strategy, options).begin(WEIGHTS, version=version)
        whole = not self.codec.elementwise or self.encoding == "bf16"
        while one.scanning:
            for name in filter(self.sites, SHAPES):
                found = {site: delta.ravel() for site, delta in self.deltas(name).items()}
                n = math.prod(SHAPES[name])
                step = max(n, 1) if whole else SLICE
                for start in range(0, n, step):
                    one.scan(list(found), [d[start : start + step] for d in found.values()])
            one.end_scan()
        out = {}
        for name, values in self.base.items():
            found = self.deltas(name)
            old = {k.split("/")[0]: v for k, v in (state or {}).items() if k.endswith("/" + name)}
            out[name] = one.combine(name, values, list(found), list(found.values()), old)
        values = {name: done.value for name, done in out.items()}
        return values, {f"{k}/{n}": v for n, done in out.items() for k, v in done.state.items()}


def read(path):
    with TensorFile(path) as file:
        return dict(file)


def assert_same_bits(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(update_reader, "_PIECE", 15_000)


def test_federated_averaging_gives_the_bits_of_plain_numpy(tmp_path):
    made = Made(tmp_path / "study")
    written, outputs = made.combine()
    expected = {}
    for name, base in made.base.items():
        total = np.zeros(base.shape)
        for site in sorted(WEIGHTS):
            trained = made.payloads[site][name]
            total = total + (trained.astype(np.float64) - base) * (
                WEIGHTS[site] / math.fsum(WEIGHTS.values())
            )
        expected[name] = np.asarray(base + total, dtype=np.float32)
    assert_same_bits(read(outputs.model), expected)
    assert written == Written(
        weights_sha256=weights_sha256(expected),
        has_delta=False,
        has_state=False,
        has_ema=False,
        n_tensors=5,
        n_parameters=40_038,
    )
    assert [path.name for path in outputs.model.parent.iterdir()] == ["model"]
    stream_safetensors(
        tmp_path / "whole", {n: a.shape for n, a in expected.items()}, expected.__getitem__
    )
    assert outputs.model.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(("piece", "n_threads"), [(1000, 4), (7777, 1), (10**6, 2)])
def test_neither_pieces_nor_threads_change_a_bit(tmp_path, monkeypatch, piece, n_threads):
    one = Made(tmp_path / "one").combine("fedadam")[1]
    monkeypatch.setattr(update_reader, "_PIECE", piece)
    monkeypatch.setattr(update_reader, "_MAX_THREADS", n_threads)
    monkeypatch.setattr(update_reader.os, "cpu_count", lambda: 8)
    other = Made(tmp_path / "other").combine("fedadam")[1]
    assert one.model.read_bytes() == other.model.read_bytes()
    assert one.state.read_bytes() == other.state.read_bytes()


@pytest.mark.parametrize("case", ["fedavg", "momentum", "clipped", "fedadam"])
@pytest.mark.parametrize("shared_by", [None, SHARED_BY])
def test_sums_in_one_pass_change_no_bit(tmp_path, monkeypatch, case, shared_by):
    pytest.importorskip("numba")
    made = Made(tmp_path / "study", shared_by=shared_by)
    older = {n: np.float32(values * 1.5) for n, values in made.base.items()}
    write_safetensors(tmp_path / "older", older)
    with TensorFile(tmp_path / "older") as file:
        inputs = {"weights": {**WEIGHTS, "north": 0.0}, "bases": {"east": file}}
        plain = made.combine(*CASES[case], **inputs)[1]
        monkeypatch.setattr(fused_sums, "WORTH_COMPILING", 0)
        fused = made.combine(*CASES[case], folder="fused", **inputs)[1]
    assert_same_bits(read(fused.model), read(plain.model))
    if plain.state.exists():
        assert_same_bits(read(fused.state), read(plain.state))


def test_a_version_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    made = Made(tmp_path / "study")
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("fsync"))
    assert made.combine("fedadam", model="int8")[0].has_state


def test_without_numba_and_for_few_values_numpy_adds(monkeypatch):
    assert fused_sums.fused_add(fused_sums.WORTH_COMPILING - 1) is None
    monkeypatch.setattr(fused_sums.importlib.util, "find_spec", lambda name: None)
    assert fused_sums.fused_add(fused_sums.WORTH_COMPILING) is None


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("case", CASES)
def test_files_give_what_a_strategy_makes_tensor_by_tensor(tmp_path, case, encoding):
    strategy, options = CASES[case]
    made = Made(tmp_path / "study", encoding)
    values, memory = made.expected(strategy, options)
    written, outputs = made.combine(strategy, options)
    assert_same_bits(read(outputs.model), values)
    assert written.has_state == bool(memory)
    assert outputs.state.exists() == bool(memory)
    if memory:
        assert_same_bits(read(outputs.state), memory)
        with TensorFile(outputs.state) as state:
            again = made.combine(strategy, options, state=state, version=2)[1]
        values, memory = made.expected(strategy, options, state=memory, version=2)
        assert_same_bits(read(again.model), values)
        assert_same_bits(read(again.state), memory)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("encoding", ["fp32", "int8", "topk"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian", "multikrum"])
def test_of_each_tensor_only_sites_that_share_it_are_asked(tmp_path, strategy, encoding):
    made = Made(tmp_path / "study", encoding, SHARED_BY)
    values, memory = made.expected(strategy)
    _, outputs = made.combine(strategy)
    found = read(outputs.model)
    assert_same_bits(found, values)
    assert_same_bits({"head": found["head"]}, {"head": made.base["head"]})
    if memory:
        assert_same_bits(read(outputs.state), memory)


def test_an_update_must_hold_what_its_site_shares_and_nothing_else(tmp_path):
    made = Made(tmp_path / "study")
    made.shared_by = {**dict.fromkeys(SHAPES, tuple(WEIGHTS)), "bias": ("east",)}
    with pytest.raises(TensorError, match="'bias' is unexpected"):
        made.combine()
    assert not list((made.folder / "out-1").iterdir())


@pytest.mark.parametrize("model", sorted(set(ENCODINGS) - {"fp32"}))
def test_a_lossy_version_is_what_its_readers_make_of_the_delta(tmp_path, model):
    made, encoding = Made(tmp_path / "study"), encodings.by_name(model)
    case = ("fedavgm", {"server_momentum": 0.5})
    layout = state_layout(SHAPES, strategies.by_name(*case), encoding)
    memory, left, state = {}, {}, None
    for version in (1, 2):
        target, memory = made.expected(*case, state=memory, version=version)
        written, outputs = made.combine(*case, model=model, state=state, version=version)
        weights, after = read(outputs.model), read(outputs.state)
        assert (written.has_delta, written.has_state) == (True, True)
        assert written.weights_sha256 == weights_sha256(weights)
        with TensorFile(outputs.delta) as file:
            file.check_layout(encodings.payload_layout(encoding, SHAPES))
            readers = {n: encoding.reconstruct(n, file, b) for n, b in made.base.items()}
            carried = {n: encoding.decode(n, file, b) for n, b in made.base.items()}
        assert_same_bits(weights, readers)
        for name, base in made.base.items():
            whole = np.float64(base) + carried[name] + after[f"residual/{name}"]
            wanted = np.float64(target[name]) + left.get(name, 0)
            np.testing.assert_allclose(whole, wanted, rtol=1e-6, atol=1e-9)
        left = {
            name: encoding.encode(name, target[name], base, left.get(name)).residual
            for name, base in made.base.items()
        }
        assert_same_bits(after, {**memory, **{f"residual/{n}": v for n, v in left.items()}})
        state = TensorFile(outputs.state)
        state.check_layout(layout)
    state.close()


def test_a_tensor_that_nobody_present_shares_stays_with_all_its_memory(tmp_path):
    made = Made(tmp_path / "study", shared_by=SHARED_BY)
    memory = {f"residual/{n}": np.full(shape, 0.25, np.float32) for n, shape in SHAPES.items()}
    write_safetensors(tmp_path / "state", memory)
    with TensorFile(tmp_path / "state") as state:
        _, outputs = made.combine(model="int8", state=state)
    assert_same_bits({"head": read(outputs.model)["head"]}, {"head": made.base["head"]})
    after = read(outputs.state)
    assert (after["residual/head"] == 0.25).all()
    assert (after["residual/bias"] != 0.25).any()
    assert not read(outputs.delta)["head#values"].any()


def test_a_memory_of_another_layout_is_refused(tmp_path):
    made = Made(tmp_path / "study")
    write_safetensors(tmp_path / "state", {"momentum/bias": np.zeros(7, np.float32)})
    with TensorFile(tmp_path / "state") as state, pytest.raises(TensorError, match="is missing"):
        made.combine("fedadam", state=state)


@pytest.mark.parametrize("model", ["fp32", "int8"])
def test_a_value_that_is_not_finite_ends_it_and_leaves_no_file(tmp_path, model):
    made = Made(tmp_path / "study")
    values = dict(made.payloads["north"])
    values["conv"] = values["conv"].copy()
    values["conv"][39, 999] = math.nan
    write_safetensors(made.folder / "north", values)
    with pytest.raises(StudyError, match="'conv' is not finite"):
        made.combine(model=model)
    with pytest.raises(TensorError, match="'conv' holds NaN"):
        made.combine("fedmedian", model=model, version=2)
    assert not list(made.folder.glob("out-*/*"))


@pytest.mark.parametrize("model", ["fp32", "topk"])
def test_a_failure_at_any_tensor_leaves_no_file(tmp_path, monkeypatch, model):
    made = Made(tmp_path / "study")
    real, calls = TensorFile.read_slice, []

    def fails(self, name, start, stop, **options):
        calls.append(name)
        if name == "head":
            raise OSError(5, "Input/output error")
        return real(self, name, start, stop, **options)

    monkeypatch.setattr(TensorFile, "read_slice", fails)
    with pytest.raises(OSError, match="Input/output"):
        made.combine("fedadam", model=model)
    assert "gain" in calls
    assert not list(made.folder.glob("out-*/*"))
