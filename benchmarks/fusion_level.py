"""The two fusion levels of an engine beside each other, and what taps change at each.

    python benchmarks/fusion_level.py [--threads N] [--rounds N]

Models of all-MiniLM-L6-v2's size with random weights, float32. Both levels are held against the float64 interpreter
of the network before anything is timed; the engines of one model take turns, and share one thread pool.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import Spread, interleaved, ratios, report

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.models import (
    encoder_config,
    model_from_checkpoint,
    sublayer_stack_config,
    write_random_checkpoint,
)
from trtllm_ext.oracle import evaluate

SHAPES = {16: (1, 16), 128: (1, 128), 1024: (8, 128)}  # tokens: (batch, sequence)
SIZES = {"hidden_size": 384, "ffn_hidden_size": 1536, "num_hidden_layers": 6}
VOCABULARY = 30522
LEVELS = {"basic": True, "all": False}  # level: BuildConfig.deterministic

Arrays = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    os.environ["TRTLLM_EXT_NUM_THREADS"] = str(arguments.threads)
    os.environ["TRTLLM_EXT_THREAD_POOL"] = "process"
    rows, raw = [], {}
    for name, (config, limits) in models().items():
        with tempfile.TemporaryDirectory() as folder:
            write_random_checkpoint(folder, config)
            engines = Engines(Path(folder), limits)
        for tokens, shape in SHAPES.items():
            inputs = random_inputs(config, shape)
            if tokens == min(SHAPES):
                engines.check(inputs)
            taps = engines.changed_by_taps(inputs)
            samples = engines.times(inputs, arguments.rounds)
            raw[f"{name}, {tokens}"] = {"seconds": samples, "largest_difference": taps}
            rows.append(row(name, tokens, samples, taps))
    report(
        "fusion_level",
        [
            "model",
            "tokens",
            "all, ms",
            "basic / all",
            "all with taps / all",
            "tapped against untapped, basic",
            "tapped against untapped, all",
        ],
        rows,
        raw=raw,
        notes="Times as median [10 % .. 90 %], ratios paired round by round. Taps are all that there are: six an "
        "encoder layer, three a stack's. Differences are the largest of any output, as a share of its largest "
        "magnitude; 0 is bit for bit. Targets: 0 at basic, 1e-6 at all.",
    )


def models() -> dict[str, tuple[ModelConfig, dict[str, int]]]:
    """Config and build limits by name."""
    sentences = {"max_batch_size": 8, "opt_batch_size": 1, "max_input_len": 512}
    encoder = encoder_config(
        **SIZES, num_attention_heads=12, vocab_size=VOCABULARY, max_position_embeddings=512
    )
    gated = sublayer_stack_config(
        **SIZES, gated=True, hidden_act="silu", norm="rms_norm", bias=False, placement="pre"
    )
    return {
        "encoder": (encoder, sentences),
        "stack: relu, layer norm": (sublayer_stack_config(**SIZES), {"max_num_tokens": 1024}),
        "stack: gated silu, RMS norm": (gated, {"max_num_tokens": 1024}),
    }


class Engines:
    """A model built at both levels, with all taps and without."""

    def __init__(self, checkpoint: Path, limits: dict[str, int]) -> None:
        self._sessions: dict[tuple[str, bool], tx.Session] = {}
        for level, deterministic in LEVELS.items():
            for tapped in (False, True):
                settings = tx.BuildConfig(**limits, deterministic=deterministic, taps=["*"] if tapped else [])
                engine = tx.build(model_from_checkpoint(checkpoint), settings)
                self._sessions[level, tapped] = tx.Session.from_serialized_engine(engine.engine)
        self._model = model_from_checkpoint(checkpoint)
        self._network = trace(self._model, tx.BuildConfig(**limits)).network

    def check(self, inputs: Arrays) -> None:
        """Stop if a level computes something else than the network means."""
        expected: dict[str, Any] = evaluate(self._network.trt_network, backend.tensorrt(), inputs)
        for level in LEVELS:
            worst = largest_difference(expected, self._sessions[level, False].run(inputs))
            if worst > 1e-5:
                raise SystemExit(f"level {level} is off by {worst:.1e}: not timing a wrong result")

    def changed_by_taps(self, inputs: Arrays) -> dict[str, float]:
        """The largest difference that taps make, by level."""
        return {
            level: largest_difference(
                self._sessions[level, False].run(inputs), self._sessions[level, True].run(inputs)
            )
            for level in LEVELS
        }

    def times(self, inputs: Arrays, rounds: int) -> dict[str, list[float]]:
        """Seconds a call: of both levels without taps, and of all with them."""
        variants = {}
        for name, key in {
            "basic": ("basic", False),
            "all": ("all", False),
            "all with taps": ("all", True),
        }.items():
            session = self._sessions[key]
            outputs = session.run(inputs)
            variants[name] = lambda session=session, outputs=outputs: session.run(inputs, outputs)
        return interleaved(variants, rounds=rounds)


def largest_difference(expected: Arrays, got: Arrays) -> float:
    """Over all outputs of `expected`, as a share of each one's largest magnitude."""
    shares = []
    for name, value in expected.items():
        wide = np.asarray(value, np.float64)
        shares.append(float(np.abs(got[name] - wide).max() / np.abs(wide).max()))
    return max(shares)


def random_inputs(config: ModelConfig, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    if config.architecture == "Encoder":
        ids = generator.integers(1000, VOCABULARY, shape).astype(np.int32)
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
    tokens = generator.normal(size=(shape[0] * shape[1], config.hidden_size))
    return {"hidden_states": tokens.astype(np.float32)}


def row(name: str, tokens: int, samples: dict[str, list[float]], taps: dict[str, float]) -> list[str]:
    return [
        name,
        f"{tokens}",
        f"{Spread.of(samples['all']).scaled(1e3):.2f}",
        f"{ratios(samples['basic'], samples['all']):.3f}",
        f"{ratios(samples['all with taps'], samples['all']):.3f}",
        *(f"{taps[level]:.1e}" if taps[level] else "0" for level in LEVELS),
    ]


if __name__ == "__main__":
    main()
