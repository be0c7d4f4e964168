"""Source weights: pieces of them as views, the ledger of what became of each, and the files that hold them."""

import json
import re
import zlib

import ml_dtypes
import numpy as np
import pytest
from bert_source import bert_weights
from safetensors.numpy import save_file

from trtllm_ext.checkpoint import safetensors_writer
from trtllm_ext.checkpoint.convert import stream as streaming
from trtllm_ext.checkpoint.convert.pieces import Piece, rows, stack, unused_part
from trtllm_ext.checkpoint.convert.source import SourceWeights
from trtllm_ext.checkpoint.convert.source_files import open_weights
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

E, H, F = 3, 10, 14  # experts, hidden, twice the feed-forward width
A, B = Piece("matrix", (F, H)), Piece("experts", (E, H, F))

# piece -> the same in numpy
VIEWS = {
    "plain": (A, lambda x: x),
    "transpose": (A.transpose(), lambda x: x.T),
    "transposed twice": (A.transpose().transpose(), lambda x: x),
    "first rows": (A.half(0), lambda x: x[:7]),
    "last rows": (A.half(1), lambda x: x[7:]),
    "first columns": (A.half(0, axis=-1), lambda x: x[:, :5]),
    "last columns": (A.half(1, axis=1), lambda x: x[:, 5:]),
    "even columns": (A.every_second(0), lambda x: x[:, ::2]),
    "odd rows": (A.every_second(1, axis=0), lambda x: x[1::2]),
    "half of a transpose": (A.transpose().half(1), lambda x: x.T[5:]),
    "transpose of a half": (A.half(1).transpose(), lambda x: x[7:].T),
    "odd rows of a transpose": (A.transpose().every_second(1, axis=0), lambda x: x.T[1::2]),
    "odd columns of the last rows": (A.half(1).every_second(1), lambda x: x[7:, 1::2]),
    "experts": (B, lambda x: x),
    "experts transposed": (B.transpose(), lambda x: x.transpose(0, 2, 1)),
    "gate of experts": (B.transpose().every_second(0, axis=1), lambda x: x[..., 0::2].transpose(0, 2, 1)),
    "up of experts": (B.transpose().every_second(1, axis=-2), lambda x: x[..., 1::2].transpose(0, 2, 1)),
    "half of experts": (B.half(1, axis=1), lambda x: x[:, 5:]),
    "pairs of experts": (B.every_second(1), lambda x: x[..., 1::2]),
    "vector": (Piece("v", (6,)).every_second(1), lambda x: x[1::2]),
    "number": (Piece("n", ()), lambda x: x),
}


def random(shape, dtype=np.float32):
    return np.asarray(np.random.default_rng(0).normal(size=shape)).astype(dtype)


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks, blocks and tiles so small that every path is taken more than once."""
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 200)
    monkeypatch.setattr(streaming, "RELEASE_BYTES", 150)
    monkeypatch.setattr(streaming, "TILE", 3)


def read(values):
    """The values as they are streamed, and how often the pages were given back."""
    released = []
    chunks = [np.array(chunk) for chunk in streaming.stream(values, lambda: released.append(1))]
    assert all(chunk.ndim == 1 and chunk.dtype == values.dtype for chunk in chunks)
    assert max(chunk.nbytes for chunk in chunks) <= safetensors_writer.CHUNK_BYTES
    return np.concatenate(chunks).reshape(values.shape), len(released)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", VIEWS)
def test_views(small_steps, name, dtype):
    piece, expected = VIEWS[name]
    source = random(piece.source_shape, dtype)
    view = piece.view(source)
    assert np.shares_memory(view, source)
    assert piece.shape == view.shape == expected(source).shape
    got, released = read(view)
    assert got.tobytes() == np.ascontiguousarray(expected(source)).tobytes()
    assert released >= 1


def test_large_views_in_real_steps():
    source = random((1500, 1400))  # 8 MB: several chunks
    for values in (
        source,
        source.T,
        source[:, ::2],
        source[:, 700:],
        np.stack([source, -source]).swapaxes(1, 2),
    ):
        got, released = read(values)
        np.testing.assert_array_equal(got, values)
        assert released >= 1
    assert list(streaming.stream(np.zeros((0, 4), np.float32), lambda: None)) == []


def test_pages_are_given_back_while_a_large_weight_is_read(small_steps):
    matrix = random((40, 40))
    for values in (matrix, matrix.T, matrix[:, 1::2]):
        assert read(values)[1] >= matrix.nbytes // 150 // 3


def test_later_is_one_release_behind():
    done = []
    later = streaming.ReleaseLater()
    for number in range(3):
        later(lambda number=number: done.append(number))
    assert done == [0, 1]
    later.flush()
    later.flush()
    assert done == [0, 1, 2]


def test_joined_shapes():
    q, k = Piece("q", (8, 4)), Piece("k", (2, 4))
    assert rows(q, k, k).shape == (12, 4)
    assert stack(k, k, k).shape == (3, 2, 4)
    assert stack(rows(q, k), rows(q, k)).shape == (2, 10, 4)
    assert [piece.name for piece in stack(rows(q, k), rows(k, q)).pieces] == ["q", "k", "k", "q"]
    assert stack(B.half(0, axis=1), B.half(1, axis=1)).shape == (2, E, H // 2, F)
    with pytest.raises(CheckpointError, match=r"shapes \(8, 4\), \(2, 4\) cannot be stacked"):
        stack(q, k)
    with pytest.raises(CheckpointError, match=r"shapes \(8, 4\), \(2, 5\) cannot follow each other"):
        rows(q, Piece("x", (2, 5)))
    with pytest.raises(CheckpointError, match=r"shapes \(\) cannot follow"):
        rows(Piece("n", ()))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            lambda: Piece("w", (7, 4)).half(0),
            r"w is expected in the shape \(7, 4\), and 7 along axis 0 of .*halves",
        ),
        (
            lambda: Piece("w", (7, 4)).transpose().half(0, axis=1),
            r"7 along axis 1 of \(4, 7\) does not .* halves",
        ),
        (
            lambda: Piece("w", (4, 7)).every_second(1),
            r"7 along axis -1 of \(4, 7\) does not split into pairs",
        ),
        (lambda: Piece("w", (6, 4)).half(0).half(1), r"3 along axis 0"),
        (lambda: Piece("w", (6, 4)).half(2), r"no part 2 of halves"),
        (lambda: Piece("w", (6, 4)).half(0, axis=2), r"no part 0 of halves along axis 2"),
        (lambda: Piece("w", (6,)).transpose(), r"w of shape \(6,\) has no two axes to swap"),
    ],
)
def test_views_that_do_not_fit(view, message):
    with pytest.raises(CheckpointError, match=message):
        view()


@pytest.mark.parametrize(
    ("uses", "left"),
    [
        ([A], ""),
        ([A.half(0), A.half(1)], ""),
        ([A.half(0), A.half(0), A], ""),
        ([A.every_second(0), A.every_second(1)], ""),
        ([A.half(0), A.half(1).every_second(0), A.half(1).transpose().every_second(1, axis=0)], ""),
        ([A.half(0)], "[7:14, :]"),
        ([A.every_second(1)], "[:, 0:9:2]"),
        ([A.half(1), A.every_second(1)], "[0:7, 0:9:2]"),
    ],
)
def test_what_no_use_takes(uses, left):
    assert unused_part(A.source_shape, [use.ranges for use in uses]) == left


def test_what_no_use_takes_against_counting():
    rng = np.random.default_rng(0)
    for _ in range(200):
        uses = []
        for _ in range(rng.integers(1, 4)):
            piece = Piece("w", (8, 12))
            for _ in range(rng.integers(0, 3)):
                step = piece.half if rng.integers(2) else piece.every_second
                piece = step(int(rng.integers(2)), axis=int(rng.integers(2)))
            uses.append(piece)
        taken = np.zeros((8, 12), bool)
        for piece in uses:
            piece.view(taken)[...] = True
        left = unused_part((8, 12), [piece.ranges for piece in uses])
        assert (left == "") == taken.all()


@pytest.fixture
def ledger(tmp_path):
    """make(weights, prefix) -> SourceWeights over a file of them, named without the prefix."""

    def make(weights, prefix=""):
        save_file(weights, tmp_path / "model.safetensors")
        file = SafetensorsFile(tmp_path / "model.safetensors")
        return SourceWeights(tmp_path, file, {name: name.removeprefix(prefix) for name in file})

    return make


def refusal(source):
    with pytest.raises(CheckpointError) as caught:
        source.finish()
    return str(caught.value)


def test_a_fused_weight_is_used_by_two(ledger):
    fused = random((12, 4))
    source = ledger({"model.gate_up": fused}, "model.")
    for index in (0, 1):
        (view,) = source.use(Piece("gate_up", (12, 4)).half(index))
        assert view.source == "model.gate_up"
        np.testing.assert_array_equal(view.values(), fused[6 * index : 6 * index + 6])
    source.finish()


def test_half_of_a_fused_weight_unused(ledger):
    source = ledger({"m.gate_up": random((12, 4)), "m.pairs": random((2, 6)), "m.tied": random((3,))}, "m.")
    source.use(Piece("gate_up", (12, 4)).half(0))
    source.use(Piece("pairs", (2, 6)).every_second(0))
    source.use(Piece("tied", (3,)))
    source.use(Piece("tied", (3,)))
    text = refusal(source)
    assert "2 problem(s): [6:12, :] of m.gate_up is not used; [:, 1:6:2] of m.pairs is not used." in text


def test_the_rest_of_a_weight_is_dropped_for_a_reason(ledger):
    source = ledger({"gate_up": random((12, 4)), "other": random((2,))})
    source.use(Piece("gate_up", (12, 4)).half(0))
    source.drop("gate_up", "no gate here")
    source.drop_matching(r"gate.*|oth", "does not fit all of it")
    assert "1 problem(s): other is not used by this architecture" in refusal(source)
    source.drop_matching(r"oth.*", "attention is no part of the stack")
    source.finish()
    dropped = [(weight.name, weight.reason) for weight in source.dropped]
    assert dropped == [("gate_up[6:12, :]", "no gate here"), ("other", "attention is no part of the stack")]


def test_everything_wrong_is_listed_once(ledger):
    weights = {"m.a": random((2, 3)), "m.int": np.zeros((2, 3), np.uint8), "m.mlp.fc_.bias": random((3,))}
    source = ledger(weights, "m.")
    for _ in range(2):
        assert source.use(rows(Piece("a", (3, 2)), Piece("a", (3, 2)))) == ()
        assert source.use(Piece("int", (2, 3))) == ()
        assert source.use(Piece("mlp.fc.bias", (3,))) == ()
    text = refusal(source)
    assert "4 problem(s)" in text
    assert "mlp.fc.bias (3,) is missing (Did you mean mlp.fc_.bias?)" in text
    assert "m.a has shape (2, 3), the config calls for (3, 2)" in text
    assert "m.int has the type uint8, not a float type; a quantised model has to be dequantised first" in text
    assert "m.mlp.fc_.bias is not used by this architecture" in text


def test_long_lists_are_cut(ledger):
    source = ledger({f"w{index}": np.zeros(1, np.float32) for index in range(30)})
    assert re.search(
        r"30 problem\(s\): w0 is not used.*; and 10 more\. Nothing was written\.", refusal(source)
    )


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_quantised_safetensors_are_refused_by_type(tmp_path, kind):
    header = json.dumps({"w": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(
        CheckpointError, match=rf"w has the type {kind}: the model is quantised. Dequantise it"
    ):
        open_weights(tmp_path)


FORMS = {"safetensors": "model.safetensors", "torch": "pytorch_model.bin"}
WEIGHTS = {
    "a.weight": random((40, 30)),
    "a.bias": random((40,)),
    "b.weight": random((30, 2000)),
    "b.bias": random((2000,), np.float16),
}
PLACES = {"a.weight": "1", "a.bias": "1", "b.weight": "2", "b.bias": "2"}


@pytest.fixture(params=FORMS)
def sharded(request, tmp_path):
    """make(places in the index, names held in each file) -> a folder with two files and an index."""
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")

    def make(places=PLACES, held=("a.weight a.bias", "b.weight b.bias"), index=None):
        for number, names in zip("12", held, strict=True):
            weights = {name: WEIGHTS[name] for name in names.split()}
            if request.param == "torch":
                torch.save(
                    {name: torch.from_numpy(w) for name, w in weights.items()}, tmp_path / f"{number}.bin"
                )
            else:
                save_file(weights, tmp_path / f"{number}.bin")
        weight_map = {name: f"{place}.bin" for name, place in places.items()}
        file = tmp_path / f"{FORMS[request.param]}.index.json"
        file.write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map} if index is None else index)
        )
        return tmp_path

    return make


def test_shards(sharded):
    weights = open_weights(sharded())
    assert sorted(weights) == sorted(WEIGHTS) and len(weights) == 4
    for _ in range(2):  # pages given back are read again
        for name, expected in WEIGHTS.items():
            assert weights[name].tobytes() == expected.tobytes()
            assert weights[name].dtype == expected.dtype
            weights.release_pages(name)


def test_lying_indexes(sharded):
    def refused(message, **arguments):
        with pytest.raises(CheckpointError, match=message):
            open_weights(sharded(**arguments))

    refused(r"1.bin lacks 1 of the weights listed: c.bias", places={**PLACES, "c.bias": "1"})
    refused(
        r"disagree: 1.bin holds 1 that are not listed there: a.bias; 2.bin lacks 1 of the weights listed: a.bias\.",
        places={**PLACES, "a.bias": "2"},
    )
    refused(
        r"1.bin holds 1 that are not listed there: b.bias", held=("a.weight a.bias b.bias", "b.weight b.bias")
    )
    refused(r"names 2 file\(s\) that are not there: 3.bin, 4.bin", places={**PLACES, "x": "3", "y": "4"})
    refused(r"points outside its folder: '\.\./1.bin'", places={**PLACES, "x": "../1"})
    refused(r"names 1 file\(s\) that are not there: \.\.\. Fetch", index={"weight_map": {"x": ".."}})
    refused(r"has no weight_map from weight names", index={"weight_map": {"x": 1}})
    refused(r"has no weight_map from weight names", index={})


def test_safetensors_come_first(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert list(open_weights(tmp_path)) == ["a"]
    save_file({"b": np.zeros(1, np.float32)}, tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"b": "part.safetensors"}}')
    assert list(open_weights(tmp_path)) == ["b"]
    save_file({"c": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    assert list(open_weights(tmp_path)) == ["c"]


@pytest.fixture
def torch_folder(tmp_path):
    """make(state, shard=..., **options of torch.save) -> a folder with pytorch_model.bin, or with one shard of it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def make(state, shard=False, **options):
        torch.save(state, tmp_path / ("1.bin" if shard else "pytorch_model.bin"), **options)
        index = {"weight_map": dict.fromkeys(state, "1.bin")} if shard else None
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return tmp_path

    return make


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_tensors_of_every_form(torch_folder, zipped):
    import torch

    matrix = torch.from_numpy(random((64, 100)))
    state = {
        "bf16": matrix.bfloat16(),
        "transposed": matrix.T,
        "half": matrix.half(),
        "tied": matrix,
        "cut": matrix[1:, 3:],
    }
    weights = open_weights(torch_folder(state, _use_new_zipfile_serialization=zipped))
    for _ in range(2):
        for name, tensor in state.items():
            np.testing.assert_array_equal(weights[name].astype(np.float32), tensor.float().numpy())
            weights.release_pages(name)
    assert weights["bf16"].dtype == ml_dtypes.bfloat16


class _NotATensor:
    pass


@pytest.mark.parametrize("shard", [False, True])
def test_torch_files_with_anything_but_tensors_are_refused(torch_folder, shard):
    import torch

    for state, message in (
        ({"w": _NotATensor()}, r"cannot be read as a dict of tensors: Weights only load failed"),
        ({"w": 1.0}, r"w is a float, not a dense tensor"),
        ({"w": torch.zeros(2).to_sparse()}, r"w is a Tensor, not a dense tensor"),
        (
            {"w": torch.zeros(2).to(torch.float8_e4m3fn)},
            r"w has the type torch.float8_e4m3fn: .* Dequantise it",
        ),
        (
            {"w": torch.zeros(2, device="meta")},
            r"w has the type torch.float32, which is not supported|cannot be read",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_weights(torch_folder(state, shard))


def test_the_writer_sums_and_sends_to_disk_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(safetensors_writer, "WRITEBACK_BYTES", 500)
    sent = []
    monkeypatch.setattr(
        safetensors_writer, "start_writeback", lambda _, offset, size: sent.append((offset, size))
    )
    weights = {name: random((20, 10)) for name in ("a", "b")}
    file, shapes = tmp_path / "w.safetensors", dict.fromkeys(weights, (20, 10))
    with safetensors_writer.SafetensorsWriter(file, shapes, np.dtype(np.float32)) as writer:
        for name, values in weights.items():
            writer.write(name, safetensors_writer.split_into_chunks(values))
    got = SafetensorsFile(file)
    for name, total in zip(weights, got.metadata["crc32"].split(), strict=True):
        assert got[name].tobytes() == weights[name].tobytes()
        seed = safetensors_writer.checksum_seed(name, np.dtype(np.float32), (20, 10))
        assert int(total, 16) == zlib.crc32(weights[name].tobytes(), seed)
    ends = [offset + size for offset, size in sent]
    assert sent and [offset for offset, _ in sent] == [0, *ends[:-1]], "one part after the other"


def test_dropped_weights_are_told_by_reason(bert_folder, tmp_path, capsys):
    heads = {f"cls.{index}": np.zeros(2, np.float32) for index in range(5)}
    folder = bert_folder({"architectures": ["BertForMaskedLM"]}, weights={**bert_weights(), **heads})
    assert cli.main(["convert", "--model_dir", str(folder), "--output_dir", str(tmp_path / "c")]) == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if "not used: " in line]
    assert told[0] == "not used: embeddings.position_ids (checked to be 0, 1, 2, ...)"
    assert any(
        line.startswith("not used: 5 weights: cls.0, cls.1, cls.2, ... (a head for training") for line in told
    )
    assert any(
        line.startswith("not used: pooler.dense.bias, pooler.dense.weight (the model pools") for line in told
    )
    assert len(told) == 3
