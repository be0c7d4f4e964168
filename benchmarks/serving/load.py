"""A server under 1, 8 and 32 clients over HTTP and gRPC, beside calls of the session, and itself without batching.

    python benchmarks/serving/load.py [--rounds N] [--seconds N]

Each client sends a short input of its own, one sentence of 8 tokens or one token of a stack, and asks again as soon as
it has the answer. All of them are in one process beside the server, on loopback. The variants take turns in a new
random order each round; ratios are of turns of the same round. Every answer's bytes are checked before the timing.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[each]) for each in (0, 1)]

import numpy as np  # noqa: E402
import wires  # noqa: E402
from common import Spread, ratios, report  # noqa: E402
from subjects import (  # noqa: E402
    SENTENCE_TOKENS,
    Arrays,
    Server,
    build_encoder,
    build_stack,
    sentence,
    served,
    token,
)

CLIENTS = (1, 8, 32)
TARGET = 3.0
HIDDEN = 512


@dataclass(frozen=True)
class Subject:
    """An engine, its short inputs by number, and the output that clients ask for."""

    name: str
    build: Callable[[Path], Path]
    request: Callable[[int], Arrays]
    output: str


SUBJECTS = (
    Subject(
        f"encoder, 2 layers of 128, {SENTENCE_TOKENS} tokens",
        lambda folder: build_encoder(folder, hidden=128, layers=2, heads=2),
        sentence,
        "sentence_embedding",
    ),
    Subject(
        f"stack, 4 layers of {HIDDEN}, 1 token",
        lambda folder: build_stack(folder, hidden=HIDDEN, ffn=4 * HIDDEN, layers=4),
        lambda seed: token(seed, hidden=HIDDEN),
        "hidden_states_out",
    ),
)


@dataclass
class Turn:
    """One variant's turn: answers a second, milliseconds of each, and the server's processor time for one."""

    rate: float
    latencies_ms: list[float]
    server_ms: float = 0.0


Turns = dict[str, list[Turn]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.8, help="of a variant's turn")
    arguments = parser.parse_args()
    os.environ.setdefault("TRTLLM_EXT_SPINNING", "0")  # as the server has it
    rows, raw, reached = [], {}, []
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        for subject in SUBJECTS:
            turns = measure(subject, clients, arguments.rounds, arguments.seconds)
            rows += table(subject, turns)
            raw[subject.name] = {name: [summed(turn) for turn in each] for name, each in turns.items()}
            reached += [
                f"{subject.name} over {protocol}: {gain(turns, protocol, 32):.2f}"
                for protocol in wires.CONNECTIONS
            ]
    report(
        "serving_load",
        [
            "engine",
            "clients",
            "answers a second",
            "/ one client",
            "/ without batching",
            "/ Session.run alone",
            "p50, ms",
            "p99, ms",
        ],
        rows,
        raw=raw,
        notes=f"Median [10 % .. 90 %] of {arguments.rounds} rounds; p50 and p99 of all answers. Target: at 32 clients "
        f"{TARGET:g} times one client's answers a second. Got: {'; '.join(reached)}.",
    )


def measure(subject: Subject, clients: Any, rounds: int, seconds: float) -> Turns:
    """Every variant's turns, one a round."""
    import trtllm_ext as tx

    drawn = random.Random(0)
    turns: Turns = {}
    with tempfile.TemporaryDirectory() as folder:
        engine_dir = subject.build(Path(folder))
        with (
            tx.Session.from_engine_dir(engine_dir) as session,
            served(engine_dir) as joining,
            served(engine_dir, "--max_batch_size", "1") as apart,
        ):
            variants = {f"Session.run, {rows} at once": calls(session, subject, rows) for rows in (1, 32)}
            for protocol in wires.CONNECTIONS:
                for kind, server in (("", joining), (", no batching", apart)):
                    requests = checked(session, subject, protocol, server)
                    for count in CLIENTS:
                        variants[f"{protocol}, {count}{kind}"] = load(
                            clients, protocol, server, requests[:count]
                        )
            for _ in range(rounds):
                for name in drawn.sample(list(variants), len(variants)):
                    while (turn := variants[name](seconds)).rate == 0:  # the whole machine stood still
                        print(f"{name}: no answer in {seconds:g} s, once more", flush=True)
                    turns.setdefault(name, []).append(turn)
    return turns


def calls(session: Any, subject: Subject, rows: int) -> Callable[[float], Turn]:
    """Session.run one call after the other, of so many requests joined by hand."""
    made = [subject.request(seed) for seed in range(rows)]
    joined = {name: np.concatenate([each[name] for each in made]) for name in made[0]}

    def turn(seconds: float) -> Turn:
        times: list[float] = []
        session.run(joined)
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            session.run(joined)
            times.append(time.perf_counter() - begin)
        return Turn(rows * len(times) / sum(times), [1e3 * took for took in times])

    return turn


def checked(session: Any, subject: Subject, protocol: str, server: Server) -> list[bytes]:
    """Requests of as many clients as there are at most. Raises SystemExit where an answer is not the session's."""
    made = [subject.request(seed) for seed in range(max(CLIENTS))]
    make, read = {
        "HTTP": (wires.http_request, wires.http_output),
        "gRPC": (wires.grpc_request, wires.grpc_output),
    }[protocol]
    requests = [make(arrays, subject.output) for arrays in made]
    for arrays, answer in zip(made, wires.answers(protocol, port(protocol, server), requests), strict=True):
        expected = session.run(arrays)[subject.output]
        if not np.abs(read(answer, subject.output) - expected).max() <= 1e-5 * np.abs(expected).max():
            raise SystemExit(f"{subject.name} over {protocol}: not timing a wrong answer")
    return requests


def load(clients: Any, protocol: str, server: Server, requests: list[bytes]) -> Callable[[float], Turn]:
    def turn(seconds: float) -> Turn:
        used = server.processor_seconds()
        found = clients.apply(wires.load, (protocol, port(protocol, server), requests, seconds))
        used = server.processor_seconds() - used
        answered = len(found.latencies_s)
        # A tenth of the time goes by before the counting.
        return Turn(
            answered / found.took_s,
            [1e3 * each for each in found.latencies_s],
            1e3 * used / 1.1 / max(1, answered),
        )

    return turn


def port(protocol: str, server: Server) -> int:
    return server.http_port if protocol == "HTTP" else server.grpc_port


def gain(turns: Turns, protocol: str, count: int) -> float:
    """How many times one client's rate."""
    return against(turns[f"{protocol}, {count}"], turns[f"{protocol}, 1"]).median


def against(ours: list[Turn], theirs: list[Turn]) -> Spread:
    return ratios([turn.rate for turn in ours], [turn.rate for turn in theirs])


def table(subject: Subject, turns: Turns) -> list[list[str]]:
    alone = turns["Session.run, 1 at once"]
    rows = []
    for name, each in turns_in_order(turns):
        protocol = name.split(",", 1)[0]
        is_served, is_joining = protocol in wires.CONNECTIONS, f"{name}, no batching" in turns
        latencies = [took for turn in each for took in turn.latencies_ms]
        rows.append(
            [
                subject.name,
                name,
                f"{Spread.of([turn.rate for turn in each]):.0f}",
                f"{against(each, turns[f'{protocol}, 1']):.2f}" if is_joining else "",
                f"{against(each, turns[f'{name}, no batching']):.2f}" if is_joining else "",
                f"{against(each, alone):.2f}" if is_served else "",
                f"{np.percentile(latencies, 50):.2f}",
                f"{np.percentile(latencies, 99):.2f}",
            ]
        )
    return rows


def turns_in_order(turns: Turns) -> list[tuple[str, list[Turn]]]:
    """The session first, then by protocol, with batching and without, and number of clients."""
    order = ["Session.run, 1 at once", "Session.run, 32 at once"]
    order += [
        f"{each}, {n}{kind}" for each in wires.CONNECTIONS for kind in ("", ", no batching") for n in CLIENTS
    ]
    return [(name, turns[name]) for name in order]


def summed(turn: Turn) -> dict[str, float]:
    p50, p99 = np.percentile(turn.latencies_ms, (50, 99))
    return {
        "rate": turn.rate,
        "mean_ms": statistics.fmean(turn.latencies_ms),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "server_processor_ms": turn.server_ms,
    }


if __name__ == "__main__":
    main()
