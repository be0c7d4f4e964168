"""What it costs that a run may change the stream: engines with surgery beside those without, nothing being changed.

    python benchmarks/surgery.py [--threads N] [--rounds N]

Models of all-MiniLM-L6-v2's size with random weights, float32. Outputs are compared before anything is timed; the
engines of one model take turns, and share one thread pool.
"""

import argparse
import math
import os
import tempfile
from contextlib import ExitStack

import numpy as np
from common import Spread, interleaved, ratios, report
from fusion_level import SHAPES, models, random_inputs

import trtllm_ext as tx
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

VARIANTS = {"none": [], "contributions": ["*.contribution"], "all": ["*"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    os.environ["TRTLLM_EXT_NUM_THREADS"] = str(arguments.threads)
    os.environ["TRTLLM_EXT_THREAD_POOL"] = "process"
    rows, raw = [], {}
    for name, (config, limits) in models().items():
        with ExitStack() as stack:
            sessions = opened(stack, config, limits)
            for tokens, shape in SHAPES.items():
                inputs = random_inputs(config, shape)
                check(sessions, inputs)
                samples = interleaved(
                    {
                        variant: (lambda session=session, inputs=inputs: session.run(inputs))
                        for variant, session in sessions.items()
                    },
                    rounds=arguments.rounds,
                )
                left_out = memory(sessions["all"], inputs)
                raw[f"{name}, {tokens}"] = {"seconds": samples, "left_out_bytes": left_out}
                rows.append(row(name, tokens, samples, left_out))
    report(
        "surgery",
        [
            "model",
            "tokens",
            "without, ms",
            "contributions / without",
            "all / without",
            "inputs left out, all",
            "their sizes, MB",
            "memory taken for them, MB",
        ],
        rows,
        raw=raw,
        notes="Times as median [10 % .. 90 %], ratios paired round by round. contributions: every sublayer's may be "
        "changed (twelve of the encoder, six of a stack); all: the stream before and after each sum too. Runs leave "
        "all these inputs out, and have the bits of the engine without. Memory: of the arrays that stand for them, "
        "after the largest run so far.",
    )


def opened(stack: ExitStack, config: object, limits: dict[str, int]) -> dict[str, tx.Session]:
    """A session of each variant."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(folder, config)
        sessions = {}
        for variant, patterns in VARIANTS.items():
            engine = tx.build(model_from_checkpoint(folder), tx.BuildConfig(**limits, surgery=patterns))
            session = tx.Session.from_serialized_engine(
                engine.engine, input_defaults=engine.config.input_defaults
            )
            sessions[variant] = stack.enter_context(session)
    return sessions


def check(sessions: dict[str, tx.Session], inputs: dict[str, np.ndarray]) -> None:
    """That all variants give the same bits."""
    expected = sessions["none"].run(inputs)
    for variant, session in sessions.items():
        for name, value in session.run(inputs).items():
            assert value.tobytes() == expected[name].tobytes(), (variant, name)


def memory(session: tx.Session, inputs: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """How many inputs are left out, their bytes in this run, and those of the memory that they are read from."""
    shapes = {name: value.shape for name, value in inputs.items()}
    sizes = [4 * math.prod(each.shape_beside(shapes)) for each in session.input_defaults.values()]
    blocks = session._bindings.left_out._blocks.values()
    return len(sizes), sum(sizes), sum(block.nbytes for block in blocks)


def row(name: str, tokens: int, samples: dict[str, list[float]], left_out: tuple[int, int, int]) -> list[str]:
    paired = [ratios(samples[variant], samples["none"]) for variant in ("contributions", "all")]
    count, whole, taken = left_out
    return [
        name,
        str(tokens),
        f"{Spread.of(samples['none']).scaled(1e3):.2f}",
        *(f"{each:.3f}" for each in paired),
        str(count),
        f"{whole / 1e6:.2f}",
        f"{taken / 1e6:.2f}",
    ]


if __name__ == "__main__":
    main()
