"""A stack of feed-forward sublayers on two ranks beside one, and what a cost model says of more.

    python benchmarks/tensor_parallel.py [--rounds N]

Four float32 layers with hidden_size 2048 and ffn_hidden_size 8192; each rank has one thread. Writes the table, and
the plot of docs/tensor_parallel.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, Spread, ratios, report
from cost_model import Link, predicted
from tensor_parallel_step import TOKENS

LAYERS, HIDDEN, FFN = 4, 2048, 8192
RANKS = (2, 4, 8, 64)
TARGETS = {64: 1.7, 512: 1.8}
LIMITS = {"max_num_tokens": 512, "opt_num_tokens": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        figures = measure(Path(folder), rounds)
    samples, link = figures["samples"], Link.fitted(*figures["link"].values())
    rows, predictions = [], {}
    for tokens in TOKENS:
        found = samples[str(tokens)]
        whole = Spread.of(found["whole"])
        speedups = ratios(found["whole"], found["split"])
        predictions[tokens] = {
            ranks: predicted(
                Spread.of(found[f"share{ranks}"]).median, ranks, tokens * HIDDEN * 4, LAYERS, link
            )
            for ranks in RANKS
        }
        split = Spread.of(found["split"])
        rows.append(
            [
                f"{tokens}",
                f"{whole.scaled(1e3):.2f}",
                f"{split.scaled(1e3):.2f}",
                f"{speedups:.2f}",
                f"{TARGETS.get(tokens, '')}",
                f"{predictions[tokens][2] * 1e3:.2f} ({predictions[tokens][2] / split.median - 1:+.0%})",
                *(f"{whole.median / predictions[tokens][ranks]:.1f}" for ranks in RANKS[1:]),
            ]
        )
    report(
        "tensor_parallel",
        [
            "tokens",
            "1 rank, ms",
            "2 ranks, ms",
            "speed-up",
            "target",
            "predicted for 2, ms",
            *(f"predicted speed-up on {ranks}" for ranks in RANKS[1:]),
        ],
        rows,
        raw={**figures, "predicted": predictions},
        notes=f"Speed-up: time on one rank over time on two, paired round by round, median [10 % .. 90 %]. The model "
        f"(benchmarks/cost_model.py) has measured: latency {link.latency * 1e6:.1f} us, "
        f"{1e-9 / link.seconds_a_byte:.1f} GB/s in each direction, adding {1e-9 / link.adding:.1f} GB/s; and each "
        f"rank's own work, for every number of ranks. It takes every rank to have a core and links like these two. "
        f"The 2 ranks' processes had {figures['threads']} threads each, engines of all numbers of ranks loaded.",
    )
    plot(samples, predictions)


def build(folder: Path) -> None:
    """whole/ for one rank, split/ for two, and share{n}.engine: rank 0's of n."""
    from trtllm_ext.builder import BuildConfig, build, build_engine_dir
    from trtllm_ext.checkpoint import load_resharded
    from trtllm_ext.checkpoint.sharding import with_ranks
    from trtllm_ext.models import model_from_config, sublayer_stack_config, write_random_checkpoint

    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=LAYERS)
    limits = BuildConfig(**LIMITS)
    for name, ranks in (("whole", 1), ("split", 2)):
        write_random_checkpoint(folder / f"{name}.checkpoint", with_ranks(config, ranks))
        build_engine_dir(folder / f"{name}.checkpoint", folder / name, limits)
    for ranks in RANKS:
        share = load_resharded(folder / "whole.checkpoint", tp_size=ranks, rank=0)
        model = model_from_config(share.config)
        model.load(share.weights)
        (folder / f"share{ranks}.engine").write_bytes(memoryview(build(model, limits).engine))


def measure(folder: Path, rounds: int) -> dict:
    """What tensor_parallel_step.py finds on two ranks of this machine."""
    launcher = Path(sys.executable).parent / "mpiexec"
    command = [str(launcher) if launcher.exists() else "mpiexec", "-n", "2", sys.executable]
    step = Path(__file__).parent / "tensor_parallel_step.py"
    environment = {**os.environ, "TRTLLM_EXT_NUM_THREADS": "1"}
    subprocess.run([*command, str(step), str(folder), str(rounds)], check=True, env=environment)
    return json.loads((folder / "figures.json").read_text())


def plot(samples: dict, predictions: dict) -> None:
    """Speed-up over one rank by number of ranks: lines predicted, points measured."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tensor_parallel"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for tokens in TOKENS:
        whole = Spread.of(samples[str(tokens)]["whole"]).median
        line = [1.0, *(whole / predictions[tokens][ranks] for ranks in RANKS)]
        (drawn,) = axes.plot([1, *RANKS], line, label=f"{tokens} tokens")
        measured = whole / Spread.of(samples[str(tokens)]["split"]).median
        axes.plot([2], [measured], "o", color=drawn.get_color())
    axes.plot([1, *RANKS], [1, *RANKS], ":", color="gray", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="speed-up over one rank")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib.ticker.FixedLocator([1, *RANKS]))
        axis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_title("predicted (lines) and measured (points)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "tensor_parallel.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
