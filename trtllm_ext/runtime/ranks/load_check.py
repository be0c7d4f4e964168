"""What ranks check of each other when they load their engines, so that a wrong file or a broken path between them is
an error before the first answer.
"""

import hashlib
import math
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError, RankError
from trtllm_ext.parallel import Communicator
from trtllm_ext.parallel.communicator import Array, ReduceOp
from trtllm_ext.parallel.ordered_sum import ranks_text
from trtllm_ext.parallel.reductions import NARROW_TYPES, REDUCE_OPS
from trtllm_ext.parallel.together import by_rank
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.ranks.agreement import PORTABLE, worst_difference
from trtllm_ext.runtime.ranks.running import wrong_world
from trtllm_ext.runtime.ranks.self_test import SelfTest

# The largest size of a collective is tried up to this many bytes a rank: far beyond where libraries change from one
# way of sending to another, and no burden on a host's memory. Ranks that are threads share it.
MOST_BYTES = 64 << 20
# Of no length that splits evenly into the pieces in which libraries send.
_PATTERN = 4093
_SMALL = 5
_FIELDS = {
    "build_id": "is of another build (build id {}) than rank 0's ({}); copy one engine directory to all hosts",
    "engine_kind": "is a {} engine, rank 0's a {} one; build all ranks for one kind",
    "contract_sha256": "computes by another contract (sha256 {}) than rank 0's ({}); build all ranks again",
    "config_sha256": "has another config.json (sha256 {}) than rank 0's ({}); copy one engine directory to all hosts",
}


def summary_of(envelope: Envelope) -> dict[str, Any]:
    """What a rank tells the others of its engine before it loads it."""
    return {
        "host": socket.gethostname(),
        "world_size": envelope.world_size,
        **{name: getattr(envelope, name) for name in _FIELDS},
    }


def compare_engines(reports: Sequence[dict[str, Any] | str], world_size: int) -> None:
    """Compare all ranks' summaries, or the texts of why one has none.

    Raises EngineError for the wrong number of ranks and for what all ranks met alike, RankError for all else, with
    the same sentence on every rank.
    """
    summaries = {rank: report for rank, report in enumerate(reports) if not isinstance(report, str)}
    sizes = {rank: int(each["world_size"]) for rank, each in summaries.items()}
    if len(set(sizes.values())) == 1 and (size := next(iter(sizes.values()))) != world_size:
        raise EngineError(wrong_world(size, world_size))  # ranks that find no engine are a consequence of it
    if not summaries and len(set(reports)) == 1:
        raise EngineError(str(reports[0]))  # no matter of ranks
    if len(summaries) < len(reports):
        raise RankError(by_rank([report if isinstance(report, str) else None for report in reports]))
    if len(set(sizes.values())) > 1:
        raise RankError(
            f"the ranks' engines are not of one world: {_list(list(sizes.values()), 'built for {} ranks')}. Copy one "
            f"engine directory to all hosts."
        )
    for name, sentence in _FIELDS.items():
        values = [summaries[rank][name] for rank in range(world_size)]
        others = [rank for rank, value in enumerate(values) if value != values[0]]
        if others:
            hosts = sorted({summaries[rank]["host"] for rank in others})
            first = summaries[0]["host"]
            where = f" (on {', '.join(hosts)}; rank 0 is on {first})" if hosts != [first] else ""
            shown = [value[:16] for value in (values[others[0]], values[0])]
            raise RankError(f"{ranks_text(others)}{where}: the engine {sentence.format(*shown)}.")


def _list(values: list[Any], text: str) -> str:
    ranks: dict[Any, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    return "; ".join(f"{ranks_text(group)} {text.format(value)}" for value, group in ranks.items())


# --- collectives ----------------------------------------------------------------------------------------------


def exercise_collectives(communicator: Communicator, collectives: Sequence[Any]) -> None:
    """Run each distinct collective on known values, the largest size and a small one.

    Values differ by rank and position, and their sums by the order of adding, so that a rank that is missing, doubled
    or in another's place is seen. Raises RankError on every rank.
    """
    problems: list[str] = []
    room = MOST_BYTES // (communicator.world_size if communicator.is_simulated else 1)
    for each in collectives:
        operation, group = each.operation, each.group
        kind, most = _carried_type(operation, each.dtype), int(each.max_elements)
        if operation == "ALL_GATHER":
            most *= np.dtype(each.dtype).itemsize
        most = max(1, min(most, room // kind.itemsize))
        for size in sorted({min(_SMALL, most), most}):
            if operation == "REDUCE_SCATTER":
                size = math.ceil(size / len(group)) * len(group)
            got, expected = _try(communicator, operation, each.reduce_op, group, kind, size)
            if wrong := _count_different(got, expected):
                problems.append(
                    f"{operation.lower()} of {size} {kind} values over {ranks_text(group)} gave {wrong} of {got.size} "
                    f"wrong."
                )
    told = communicator.exchange(problems[0] if problems else None)
    if any(told):
        raise RankError(
            f"the path between the ranks does not carry known values right. {by_rank(told)} Check the MPI library and "
            f"the network, and that the launcher numbers the ranks as they were built."
        )


def _count_different(got: Array, expected: Array) -> int:
    """Elements that differ in any bit."""
    left, right = got.view(np.uint8), expected.view(np.uint8)
    return 0 if np.array_equal(left, right) else int((left != right).reshape(got.size, -1).any(1).sum())


def _try(
    communicator: Communicator,
    operation: str,
    reduce_op: str,
    group: Sequence[int],
    kind: np.dtype[Any],
    size: int,
) -> tuple[Array, Array]:
    """What a collective gave here, and what it must give."""
    patterns = [_pattern(rank, kind) for rank in group]
    place = list(group).index(communicator.rank)
    values = np.resize(patterns[place], size)
    if operation == "ALL_GATHER":
        gathered = np.zeros(size * len(group), kind)
        communicator.all_gather(values, gathered, group)
        return gathered, np.concatenate([np.resize(each, size) for each in patterns])
    op = REDUCE_OPS[reduce_op]
    expected = np.resize(_reduced(patterns, op), size)
    if operation == "ALL_REDUCE":
        communicator.all_reduce(values, group, op)
        return values, expected
    part = np.zeros(size // len(group), kind)
    communicator.reduce_scatter(values, part, group, op)
    return part, expected[place * part.size : (place + 1) * part.size].copy()


@lru_cache(
    maxsize=64
)  # for each collective anew, it would be most of the time that loading a small engine takes
def _pattern(rank: int, kind: np.dtype[Any]) -> Array:
    """A rank's known values, not to be written to."""
    generator = np.random.default_rng(rank)
    if kind.kind in "iu":
        values = generator.integers(0, 100, _PATTERN).astype(kind)
    else:
        values = generator.standard_normal(_PATTERN).astype(kind)
    values.flags.writeable = False
    return values


def _reduced(patterns: Sequence[Array], op: ReduceOp) -> Array:
    """By itself, and not by what communicators use: in the order of the group, in the values' own type."""
    combine: Any = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    total = patterns[0]
    with np.errstate(over="ignore"):
        for each in patterns[1:]:
            total = combine(total, each)
    return total


def _carried_type(operation: str, dtype: str) -> np.dtype[Any]:
    """What goes between the ranks: narrow floats are reduced in float32; what is only gathered, is bytes."""
    if operation == "ALL_GATHER":
        return np.dtype(np.uint8)
    return np.dtype(np.float32 if dtype in NARROW_TYPES else dtype)


# --- the known answer -----------------------------------------------------------------------------------------


def check_known_answer(
    session: Any, communicator: Communicator, known: SelfTest, directory: EngineDir
) -> None:
    """Run the input that was stored when the engine was built, and compare. Raises RankError on every rank."""
    outputs = session.run(known.inputs)
    name, difference = worst_difference(outputs, known.outputs)
    dtype = str(directory.config["pretrained_config"].get("dtype", "float32"))
    allowed = PORTABLE.get(dtype, PORTABLE["bfloat16"])
    digest = hashlib.sha256()
    for each in known.outputs:
        digest.update(np.ascontiguousarray(outputs[each]).tobytes())
    problem = None
    if difference > allowed:
        problem = (
            f"the known answer of {directory.path} is not what came out: {name!r} is off by {difference:.2g} of its "
            f"largest value, at most {allowed:g} is allowed for {dtype}. The weights are not those that were built, or "
            f"belong to another rank; copy the directory again or build again."
        )
    told = communicator.exchange([problem, digest.hexdigest()])
    if any(text for text, _ in told):
        raise RankError(by_rank([text for text, _ in told]))
    others = [rank for rank, (_, bits) in enumerate(told) if bits != told[0][1]]
    if others:
        raise RankError(
            f"{ranks_text(others)} and rank 0 got different answers to the same input, though each is near the known "
            f"one. All ranks must get the same bits: use processors of one kind and one version of every library."
        )
