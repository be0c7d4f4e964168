"""The known answer of an engine of several ranks: what all of them, tried in one process, give for a small input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.rank_build import Progress
from trtllm_ext.builder.seeded_inputs import input_values, smaller_shape
from trtllm_ext.errors import BuildError, TrtllmExtError
from trtllm_ext.runtime.atomic import write_errors
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import TensorSummary
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal, check_same_bits
from trtllm_ext.runtime.ranks.self_test import SelfTest, write_self_test

Array = np.ndarray[Any, Any]

_SEED = 20
# Of a rehearsal: ranks of a large engine come one after the other to its weights on the disk.
TIMEOUT_S = 600.0


def write_known_answer(directory: Path, output_dir: str, config: EngineConfig, tell: Progress) -> None:
    """Run all ranks of the engines in `directory` once, and write `self_test.npz` beside them.

    output_dir: the directory's name in messages. tell: the same step, each second: whoever waits for a large engine may
    then wait on. Taps are no part of the answer: a module of one's own may note what its rank alone has.
    Raises BuildError when the engines do not run together, or do not all give the same bits.
    """
    envelope = EngineDir.read(directory, 0).envelope
    needed = [each for each in envelope.inputs if each.name not in config.input_defaults]
    inputs = known_inputs(needed, config.pretrained_config)
    names = [each.name for each in envelope.outputs if each.name not in config.taps]

    def still_trying() -> None:
        tell("trying all ranks together", 0)

    still_trying()
    try:
        with Rehearsal(directory, timeout=TIMEOUT_S, self_test=False, waiting=still_trying) as rehearsal:
            outputs = [{name: rank[name] for name in names} for rank in rehearsal.run(inputs)]
        check_same_bits(outputs)
    except TrtllmExtError as problem:
        said = str(problem).replace(str(directory), output_dir)
        raise BuildError(f"the engines were built, but their ranks do not run together: {said}") from problem
    with write_errors(output_dir, BuildError):
        write_self_test(directory, SelfTest(config.build_id, inputs, outputs[0]))


def known_inputs(inputs: Iterable[TensorSummary], sizes: Mapping[str, Any]) -> dict[str, Array]:
    """A small input of an engine, the same for every build: normal numbers, ids that tables have, a mask of ones.

    Its shape is that of `smaller_shape`. sizes: as for `input_values`.
    """
    generator = np.random.default_rng(_SEED)
    return {each.name: input_values(each, smaller_shape(each), sizes, generator) for each in inputs}
