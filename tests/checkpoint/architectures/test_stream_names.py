"""What is said to stand around the feed-forward sublayers, against transformers' own models in float64."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_against_transformers import Beside, added, array, normed

pytestmark = pytest.mark.long

BUDGET_S = 60

LIMIT = 1e-10
# What has an axis of the stream's size and is not described, by the beginning of its name.
NOT_DESCRIBED = {"SiglipModel-vision": "vision_model.head."}


def all_cases():
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.stem == Path(__file__).stem:
            continue
        for test in vars(importlib.import_module(path.stem)).values():
            marks = {mark.args[0]: mark.args[1] for mark in getattr(test, "pytestmark", ()) if mark.args}
            found |= {each.values[0].name: each.values[0] for each in marks.get(("case", "dtype"), ())}
    return found


CASES = all_cases()


@pytest.fixture(scope="module", params=sorted(CASES))
def beside(request, tmp_path_factory):
    return Beside(CASES[request.param], tmp_path_factory.mktemp("model"))


def items_of(found):
    for part in found.parts:
        for each in (*part.readers, *part.writers):
            yield from (each.matrix, each.bias, each.gain, each.shift, getattr(each, "gate", None))
        if part.norm is not None:
            yield from (part.norm.gain, part.norm.shift)


def test_nothing_that_touches_the_stream_is_left_out(beside):
    """Every element of every weight with an axis of the hidden size is in a part, or the weight is named."""
    found = beside.found
    filled = {}
    for item in filter(None, items_of(found)):
        for piece in item.pieces:
            stored = np.array(found.weights.values(piece.name))
            piece.view(filled.setdefault(piece.name, np.zeros(stored.shape, bool)))[...] = True
    allowed = NOT_DESCRIBED.get(beside.case.name)
    for name in found.weights.file:
        if found.hidden_size not in found.weights.file[name].shape:
            continue
        if name in filled:
            # A fused matrix of cross-attention or of the image features would be used in part.
            assert filled[name].all(), f"{name} is used in part"
        elif found.left_out[name] == "not described":
            assert allowed and name.startswith(allowed), name
    assert not set(filled) & set(found.left_out)


def test_writers_add_up_to_the_stream(beside):
    """From what the first layer is given, every sublayer's contribution by the map gives what the last layer gives."""
    layers, found = beside.layers(), beside.found
    starts = []
    hook = layers[0].register_forward_pre_hook(
        lambda module, arguments, options: starts.append((arguments or (options["hidden_states"],))[0]),
        with_kwargs=True,
    )
    noted = beside.run()
    hook.remove()
    stream = array(starts[-1])
    _check_embedding(beside, noted, stream)
    parallel = 0
    for part in found.parts:
        if part.layer is None:
            continue
        for reader in part.readers:
            _check_reader(beside, noted, reader, stream)
        contribution = _contribution(beside, noted, part, stream)
        side_by_side = part.residual.parallel != "none"
        if side_by_side and part.kind == "attention":
            parallel = contribution
            continue
        stream = stream * part.residual.skip_scale + contribution + (parallel if side_by_side else 0)
        if part.norm is not None:
            stream = normed(stream, part.norm.contract, part.norm.gain, part.norm.shift)
    final = array(noted[layers[-1]][1])
    assert np.abs(stream - final).max() <= LIMIT * np.abs(final).max()


def _contribution(beside, noted, part, stream):
    (writer,) = part.writers[:1]
    if len(part.writers) > 1:
        # A mixture's experts have no module each: what all of them give.
        layer = beside.layers()[part.layer]
        module = getattr(layer, "mlp", None) or layer.block_sparse_moe
        return array(noted[module][1]).reshape(stream.shape) * writer.scale
    module = beside.module_of(writer.matrix.pieces[0])
    return added(writer, array(noted[module][0]).reshape(*stream.shape[:-1], -1))


def _check_reader(beside, noted, reader, stream):
    module = beside.module_of(reader.matrix.pieces[0])
    if module is None or module not in noted:
        return  # an expert's, or a half of what the model holds as two
    x = stream if reader.norm is None else normed(stream, reader.norm, reader.gain, reader.shift)
    got = x @ reader.matrix.load().astype(np.float64).T + (0 if reader.bias is None else reader.bias())
    gives = noted[module][1]
    gives = array(gives[0] if isinstance(gives, tuple) else gives)
    axis = 1 if reader.matrix.pieces[0].transposed else 0
    rows = [row for piece in reader.matrix.pieces for row in piece.ranges[axis]]
    if max(rows) >= gives.shape[-1]:
        return  # a router, which gives its choice
    want = gives[..., rows].reshape(got.shape)
    assert np.abs(got - want).max() <= LIMIT * max(np.abs(want).max(), 1), reader.matrix.name


def _check_embedding(beside, noted, stream):
    """The tables' rows, with their factors and the norm, are what the first layer is given."""
    part, found = beside.found.parts[0], beside.found
    writers = {writer.role: writer for writer in part.writers}
    if "vocab" not in writers or any("computed" in text for text in found.missing):
        return
    total = 0
    for role in ("vocab", "position"):
        if role not in writers:
            continue
        writer = writers[role]
        piece = writer.matrix.pieces[0]
        module = beside.table_of(piece)
        values = writer.matrix.load().astype(np.float64)
        if role == "vocab":
            ids = noted[module][0]
            total = total + values.T[ids.numpy().reshape(-1)] * writer.scale
        else:
            rows = array(noted[module][1]).reshape(-1, found.hidden_size)
            distance = np.abs(values.T[None] - rows[:, None]).max(-1)
            assert (distance.min(1) == 0).all(), "these are no rows of the table"
            total = total + rows * writer.scale
    if part.norm is not None:
        total = normed(total, part.norm.contract, part.norm.gain, part.norm.shift)
    want = stream.reshape(-1, found.hidden_size)
    assert np.abs(total - want).max() <= LIMIT * np.abs(want).max()


def test_q_k_and_v_are_what_attention_takes_them_for(beside):
    """Attention's output is odd in v, and even in q and k together, whatever else it does with them."""
    found = beside.found
    part = next(part for part in found.parts if part.kind == "attention")
    (writer,) = part.writers
    module = beside.module_of(writer.matrix.pieces[0])
    before = array(beside.run()[module][0])

    def output(*roles):
        flipped = [_flip(beside, reader) for reader in part.readers if reader.role in roles]
        try:
            return array(beside.run()[module][0])
        finally:
            for undo in reversed(flipped):
                undo()

    size = np.abs(before).max()
    assert np.abs(output("v") + before).max() <= LIMIT * size
    assert np.abs(output("q", "k") - before).max() <= LIMIT * size
    assert np.abs(output("q") - before).max() > 1e-6 * size


def _flip(beside, reader):
    """Change the sign of a reader's rows in the model; gives what changes it back."""
    module = beside.module_of(reader.matrix.pieces[0])
    kept = {name: parameter.detach().clone() for name, parameter in module.named_parameters(recurse=False)}
    with torch.no_grad():
        for item, leaf in ((reader.matrix, "weight"), (reader.bias, "bias")):
            for piece in item.pieces if item is not None else ():
                view = piece.view(getattr(module, leaf).detach().numpy())
                view *= -1

    def undo():
        with torch.no_grad():
            for name, values in kept.items():
                getattr(module, name).copy_(values)

    return undo
