"""Parts of the stream, followed from where they join it to its end, and their sum compared with it at every step.

All in float64 on the engine's own taps. What the engine's sums and norms were rounded by is a part of its own, so that
the parts add up to the stream exactly; each step's rounding is held against what the stream's type allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.linear_maps import NormMap, mixing, norm_map_of
from trtllm_ext.analysis.decomposition.rounding import Bounds
from trtllm_ext.analysis.running import parts as names
from trtllm_ext.analysis.running.parts import EMBEDDING, FINAL_NORM, Summand
from trtllm_ext.analysis.running.running import StreamPart, StreamRun, is_one_sum
from trtllm_ext.errors import AnalysisError

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]
# Told a point, the rows of the run, and the parts' vectors there, which change after the call.
Watch = Callable[[str, slice, Array], None]

# What the parts of a chunk of tokens may take.
CHUNK_BYTES = 96 << 20


@dataclass
class Followed:
    """A chunk of tokens, its parts carried to the stream's end.

    rows: of the run. parts: names, as in `parts_of`. vectors: float64 [parts, tokens, hidden], which add up to
    `stream` [tokens, hidden], the stream before the final norm. output_vectors add up to `output`, after it; the same
    arrays where there is no final norm.
    share_of_bound: the largest rounding of a step as a share of what it may be, and the step.
    """

    rows: slice
    parts: tuple[str, ...]
    vectors: Array
    stream: Array
    output_vectors: Array
    output: Array
    share_of_bound: float = 0.0
    widest_step: str = ""


@dataclass
class _State:
    """vectors: [parts, tokens, hidden], or [parts, tokens, streams, hidden]."""

    run: StreamRun
    weights: Weights
    rows: slice
    index: Mapping[str, int]
    bounds: Bounds
    vectors: Array
    shares: list[tuple[float, str]] = field(default_factory=list)

    def tap(self, point: str, part: StreamPart) -> Array:
        values: Mapping[str, Array] = getattr(self.run, point)
        return values[part.name][self.rows].astype(np.float64)

    def put(self, name: str, values: Array) -> None:
        self.vectors[self.index[name]] += values

    def close(self, step: str, residue: Array, bound: Array) -> None:
        """What the step was rounded by joins as `rounding`; AnalysisError where it is more than rounding."""
        first = self.rows.start
        self.shares.append((self.bounds.check(step, residue, bound, first), step))
        self.put(names.ROUNDING, residue)


def follow(
    run: StreamRun,
    weights: Weights | None,
    parts: Sequence[Summand],
    chunk_bytes: int = CHUNK_BYTES,
    *,
    watch: Watch | None = None,
) -> Iterator[Followed]:
    """Carry all parts to the end of the stream, a chunk of tokens at a time.

    weights: the model's, by their checkpoint names, as far as `needs_weights` asks for them.
    watch: told of the parts before each sum ('transformer.layers.3.mlp.before'; of sublayers that join in one sum the
        last one's) and at the stream's end ('final').
    Raises AnalysisError naming the first sublayer at which the parts' sum leaves the stream by more than rounding, and
    ConfigError for want of weights.
    """
    names.check_weights(run.config, weights)
    connections = run.config.contract.feed_forward.residual.hyper_connections
    streams = 1 if connections is None else connections.num_streams
    row = 8 * len(parts) * run.config.hidden_size * streams
    step = max(1, chunk_bytes // (3 * row))
    for start in range(0, run.num_tokens, step):
        yield _follow(run, weights or {}, parts, slice(start, min(start + step, run.num_tokens)), watch)


def _follow(
    run: StreamRun, weights: Weights, parts: Sequence[Summand], rows: slice, watch: Watch | None
) -> Followed:
    labels = tuple(part.name for part in parts)
    size = (len(parts), rows.stop - rows.start, run.config.hidden_size)
    index = {name: number for number, name in enumerate(labels)}
    state = _State(run, weights, rows, index, Bounds(run.config), np.zeros(size))
    blocks = list(_blocks(run))
    _embed(state, blocks[0][0])
    for number, block in enumerate(blocks):
        following = blocks[number + 1][0] if number + 1 < len(blocks) else None
        if watch is not None:
            watch(f"{block[-1].name}.before", rows, state.vectors)
        _join(state, block)
        _pass_norm(state, block[-1], following)
    if watch is not None:
        watch("final", rows, state.vectors)
    return _ended(state, labels)


def _blocks(run: StreamRun) -> Iterator[tuple[StreamPart, ...]]:
    """Parts that join in one sum."""
    count = 2 if is_one_sum(run.config) else 1
    for start in range(0, len(run.parts), count):
        yield run.parts[start : start + count]


def _embed(state: _State, first: StreamPart) -> None:
    config, run = state.run.config, state.run
    contract = config.contract.embedding
    size: Any = 0.0
    for name, source in names.embedding_tables(config).items():
        given = run.inputs[source][state.rows]
        if contract is not None:
            if name.endswith("position_embedding"):
                given = given + contract.position_offset
            given = state.weights[f"{name}.weight"][given]
        values = given.astype(np.float64)
        size = size + np.linalg.norm(values, axis=-1)
        if contract is None:
            values = values - _told(state)
        state.put(name, values)
    expected, bound = state.vectors.sum(0), state.bounds.of_embedding(2 * size)
    if contract is not None and contract.norm is not None:
        map_ = norm_map_of(contract.norm, expected, state.weights, f"{EMBEDDING}.embedding_ln")
        bound = state.bounds.of_norm(map_, expected) + state.bounds.through(map_, bound)
        expected = _carried(state, map_, f"{EMBEDDING}.embedding_ln", expected)
    connections = config.contract.feed_forward.residual.hyper_connections
    if connections is not None:
        state.vectors = np.repeat(state.vectors[:, :, None], connections.num_streams, 2)
        expected, bound = np.repeat(expected[:, None], connections.num_streams, 1), bound[:, None]
    state.close(first.name + ".before", state.tap("before", first) - expected, bound)


def _told(state: _State) -> Any:
    """The parts that hidden_states is told to have, put where they belong; returns their sum."""
    total: Any = 0.0
    for name, given in state.run.inputs.items():
        if name != "hidden_states" and name in state.index:
            values = given[state.rows].astype(np.float64)
            state.put(name, values)
            total = total + values
    return total


def _join(state: _State, block: tuple[StreamPart, ...]) -> None:
    """One sum: what is in the stream, and the contributions of the block's parts."""
    config, last = state.run.config, block[-1]
    form = names.residual_of(config, last)
    before, after = state.tap("before", last), state.tap("after", last)
    factors: Array | float = 1.0
    if form.hyper_connections is not None:
        prefix = f"{last.name}_connections."
        own = {
            name.removeprefix(prefix): value.astype(np.float64)
            for name, value in state.weights.items()
            if name.startswith(prefix)
        }
        mix, beta = mixing(form.hyper_connections, before, own)
        factors = beta[..., None]
        kept = mix @ before
        state.vectors = mix @ state.vectors
        sizes = np.linalg.norm(np.abs(mix) @ np.abs(before), axis=-1)
    else:
        kept = form.skip_scale * before
        state.vectors *= form.skip_scale
        sizes = np.linalg.norm(kept, axis=-1)
    expected = kept
    for part in block:
        contribution = state.tap("contribution", part)
        rest = contribution
        bias = names.output_bias(config, part, state.weights) if state.weights else None
        if bias is not None and bias in state.index:
            vector = names.bias_vector(config, part, state.weights, bias)
            rest = contribution - vector
            state.put(bias, factors * _spread(vector, contribution, factors))
        state.put(part.name, factors * _spread(rest, contribution, factors))
        added = factors * _spread(contribution, contribution, factors)
        expected = expected + added
        sizes = sizes + np.linalg.norm(added, axis=-1)
    bound = state.bounds.of_sum(sizes + np.linalg.norm(after, axis=-1), form.hyper_connections is not None)
    state.close(last.name, after - expected, bound)


def _spread(vector: Array, like: Array, factors: Any) -> Array:
    """The vector for each token, with an axis of streams where there are several."""
    full = np.broadcast_to(vector, like.shape)
    return full if isinstance(factors, float) else full[:, None, :]


def _pass_norm(state: _State, last: StreamPart, following: StreamPart | None) -> None:
    """From one block's sum to the stream that the next one reads, or to the stream's end."""
    config = state.run.config
    form = names.residual_of(config, last)
    expected = state.tap("after", last)
    target = None if following is None else state.tap("before", following)
    bound = np.zeros(expected.shape[:-1])
    step = f"{last.name}.after" if following is None else f"{following.name}.before"
    if form.placement == "post":
        assert form.norm is not None
        name = names.norm_names(config, last)[0]
        map_ = norm_map_of(form.norm, expected, state.weights, name)
        bound = state.bounds.of_norm(map_, expected)
        expected = _carried(state, map_, name, expected)
        step = name
    if target is None:
        if form.hyper_connections is not None:
            sizes = np.linalg.norm(expected, axis=-1).sum(-1)
            bound = state.bounds.of_sum(sizes)
            expected, state.vectors = expected.sum(1), state.vectors.sum(2)
        if config.contract.final_norm is not None:
            return
        target = state.run.output[state.rows].astype(np.float64)
        bound = bound + state.bounds.of_output(expected)
        step = step if form.placement == "post" else "the engine's output"
    state.close(step, target - expected, bound)


def _carried(state: _State, map_: NormMap, name: str, stream: Array) -> Array:
    """Carry all parts through a norm; returns the norm of the stream as it was measured."""
    state.vectors = map_.linear(state.vectors)
    if map_.shift is not None:
        state.put(f"{name}.bias", np.broadcast_to(map_.shift, stream.shape))
    return map_.whole(stream)


def _ended(state: _State, labels: tuple[str, ...]) -> Followed:
    config, vectors = state.run.config, state.vectors
    stream = vectors.sum(0)
    final = config.contract.final_norm
    output_vectors = vectors
    if final is not None:
        map_ = norm_map_of(final, stream, state.weights, FINAL_NORM)
        bound = state.bounds.of_norm(map_, stream)
        measured = state.run.output[state.rows].astype(np.float64)
        whole = _carried(state, map_, FINAL_NORM, stream)
        state.close(FINAL_NORM, measured - whole, bound + state.bounds.of_output(whole))
        output_vectors = state.vectors
    share, step = max(state.shares)
    output = output_vectors.sum(0)
    _check_identity(state, output)
    return Followed(state.rows, labels, vectors, stream, output_vectors, output, share, step)


def _check_identity(state: _State, output: Array) -> None:
    """The carried parts against the engine's output, in float64: whether they were followed rightly at all."""
    measured = state.run.output[state.rows].astype(np.float64)
    wrong = np.linalg.norm(output - measured, axis=-1)
    size = np.linalg.norm(state.vectors, axis=-1).sum(0)
    allowed = 1e-9 * size
    if (wrong > allowed).any():
        token = int(np.argmax(wrong - allowed))
        raise AnalysisError(
            f"the parts do not add up to the engine's output: at token {state.rows.start + token} their sum is "
            f"{wrong[token]:.3g} away, expected is at most {allowed[token]:.3g} (1e-9 of the parts' lengths). This is "
            "an error of the decomposition itself; please report it with the model's contract."
        )
