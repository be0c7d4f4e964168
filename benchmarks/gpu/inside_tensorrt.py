"""Engines with our plugins beside the same engines of TensorRT's own layers, in one run.

    python benchmarks/gpu/inside_tensorrt.py [--limit SECONDS] [--rounds N] [--only REGEX] [--output DIRECTORY]

Two sublayers in float16, plain and gated, built for one number of tokens each, so that both sides are chosen for it.
Runs are CUDA graphs in turns (a case's `no_graphs` tells why they are not); a layer's times are those of TensorRT's
profiler. A case has a process of its own, as TensorRT was seen to end one. `--engine embedded --tiny` tries the script
where there is no GPU: both sides are then the same layers.
"""

import argparse
import faulthandler
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[each]) for each in range(3)]

import numpy as np  # noqa: E402
from common import Spread, machine, ratios  # noqa: E402
from record import Record, command_of, tell, write  # noqa: E402

import trtllm_ext as tx  # noqa: E402
from trtllm_ext import backend  # noqa: E402
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint  # noqa: E402

PLUGINS = {"ffn_plugin": "auto", "residual_norm_plugin": "auto", "gated_activation_plugin": "auto"}
FORMS: dict[str, Record] = {
    "plain": {"hidden_act": "gelu_tanh", "norm": "layer_norm", "ffn_hidden_size": 16384},
    "gated": {
        "hidden_act": "silu",
        "norm": "rms_norm",
        "gated": True,
        "bias": False,
        "ffn_hidden_size": 14336,
    },
}
TOKENS = (2048, 32, 8192)
LAYERS = 2
# Of the largest value: both sides round where they like, in float16.
TOLERANCE = 2e-2


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    os.environ[backend.ENVIRONMENT_VARIABLE] = options.engine
    until = time.monotonic() + options.limit
    version = str(backend.tensorrt().__version__)
    record: Record = {
        "command": command_of("inside_tensorrt.py"),
        "machine": machine(),
        "engine": f"{options.engine} {version}",
        "cases": [],
    }
    cases = {f"{form}, T={count}": (form, count) for count in _tokens(options.tiny) for form in FORMS}
    longest = 0.0
    # A form's weights are drawn once: they are gigabytes.
    checkpoints = tempfile.TemporaryDirectory()
    for name, (form, count) in cases.items():
        if not re.match(options.only, name):
            continue
        begin = time.monotonic()
        if begin + 1.2 * longest > until:
            record["cases"].append({"name": name, "came": "not run: the time was up"})
            continue
        record["cases"].append({"name": name, **_apart(form, count, Path(checkpoints.name), options)})
        longest = max(longest, time.monotonic() - begin)
        tell(f"{time.monotonic() - begin:5.1f} s  {_row(record['cases'][-1])}")
        write(record, options.output, "gpu_inside_tensorrt", _table(record))
    checkpoints.cleanup()
    tell(_table(record))
    write(record, options.output, "gpu_inside_tensorrt", _table(record))
    return int(any(each["came"] != "ok" for each in record["cases"]))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--limit", type=float, default=240.0, metavar="SECONDS", help="of the whole run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names begin so")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--engine", choices=("tensorrt", "embedded"), default="tensorrt")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the script and measure nothing")
    return parser.parse_args(arguments)


def _tokens(tiny: bool) -> tuple[int, ...]:
    return (3,) if tiny else TOKENS


def _apart(form: str, num_tokens: int, checkpoints: Path, options: argparse.Namespace) -> Record:
    """`_case` in a process of its own; what it was at when it did not come to its end."""
    stage = checkpoints / "stage"
    stage.write_text("starting")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), faulthandler.enable) as process:
        try:
            return process.submit(_case, form, num_tokens, checkpoints, options, stage).result()
        except BrokenProcessPool:
            return {"came": f"failed: the process ended while {stage.read_text()}"}


def _case(form: str, num_tokens: int, checkpoints: Path, options: argparse.Namespace, stage: Path) -> Record:
    """Builds both engines, checks them against each other and times them; what goes wrong is told.

    stage: a file that says meanwhile what is being done.
    """
    from tensorrt_runs import EngineRuns

    sizes = {"hidden_size": 32, "ffn_hidden_size": 64} if options.tiny else {"hidden_size": 4096}
    found: Record = {"came": "ok"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = sublayer_stack_config(
                **(FORMS[form] | sizes), num_hidden_layers=LAYERS, dtype="float16", final_norm=True
            )
            checkpoint = checkpoints / form
            if not checkpoint.exists():
                stage.write_text("writing weights")
                write_random_checkpoint(checkpoint, config)
            sessions = {}
            for side, plugins in (("ours", PLUGINS), ("native", {})):
                stage.write_text(f"building and loading the engine: {side}")
                begin = time.monotonic()
                _build(checkpoint, Path(folder, side), num_tokens, plugins)
                found[f"{side}_built_s"] = round(time.monotonic() - begin, 1)
                sessions[side] = tx.Session.from_engine_dir(Path(folder, side))
            stage.write_text("running both")
            rng = np.random.default_rng(0)
            inputs = {"hidden_states": rng.normal(size=(num_tokens, config.hidden_size)).astype(np.float16)}
            runs = {side: EngineRuns(session, inputs) for side, session in sessions.items()}
            if problem := "; ".join(filter(None, (each.graph_problem for each in runs.values()))):
                found["no_graphs"] = problem
                for each in runs.values():
                    each.without_graph(problem)
            found["difference"] = _difference(runs["ours"].results, runs["native"].results)
            found["seconds"] = _interleaved(runs, options.rounds)
            stage.write_text("asking TensorRT's profiler")
            found["layer_microseconds"] = {side: each.layer_times() for side, each in runs.items()}
            for session in sessions.values():
                session.close()
        if not found["difference"] <= TOLERANCE:
            found["came"] = f"wrong: differs by {found['difference']:.1e} of the largest value"
    except Exception as problem:  # the other cases are worth having
        found["came"] = f"failed: {type(problem).__name__}: {problem}"[:800]
    return found


def _build(checkpoint: Path, engine: Path, num_tokens: int, plugins: dict[str, str]) -> None:
    settings = tx.BuildConfig(
        max_num_tokens=num_tokens,
        opt_num_tokens=num_tokens,
        plugin_config=dict(plugins),
        profiling_verbosity="detailed",
    )
    tx.build_engine_dir(checkpoint, engine, settings)


def _difference(got: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference of any output as a share of that output's largest value; NaN where there is one."""
    worst = 0.0
    for name, value in wanted.items():
        one, other = got[name].astype(np.float64), value.astype(np.float64)
        worst = max(
            worst,
            float(np.abs(one - other).max() / np.abs(other).max()),
            key=lambda each: (each != each, each),
        )
    return worst


def _interleaved(runs: dict[str, Any], rounds: int, seconds_per_turn: float = 0.1) -> dict[str, list[float]]:
    turns = {
        side: max(2, min(500, int(seconds_per_turn / max(each.seconds(2), 1e-6))))
        for side, each in runs.items()
    }
    samples: dict[str, list[float]] = {side: [] for side in runs}
    shuffled = random.Random(0)
    for _ in range(rounds):
        for side in shuffled.sample(list(runs), len(runs)):
            runs[side].seconds(2)
            samples[side].append(runs[side].seconds(turns[side]))
    return samples


def _row(case: Record) -> str:
    if "seconds" not in case or case["came"] != "ok":
        return f"| {case['name']} | {case['came']} | | | |"
    samples = case["seconds"]
    cells = [f"{Spread.of(samples[side]).scaled(1e6):.1f}" for side in ("native", "ours")]
    ratio = ratios(samples["native"], samples["ours"])
    return f"| {case['name']} | {cells[0]} | {cells[1]} | {ratio:.3f} | {case['difference']:.1e} |"


def _table(record: Record) -> str:
    lines = [
        f"\n{record['engine']}\n",
        "| case | native, us | with plugins, us | native / ours | difference |",
    ]
    lines += ["| --- | --- | --- | --- | --- |", *map(_row, record["cases"])]
    for case in record["cases"]:
        for side, layers in case.get("layer_microseconds", {}).items():
            slowest = sorted(layers.items(), key=lambda each: -each[1])[:6]
            lines += [f"\n{case['name']}, {side}: {sum(layers.values()):.1f} us in {len(layers)} layers"]
            lines += [f"  {each:8.1f}  {name[:110]}" for name, each in slowest]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
