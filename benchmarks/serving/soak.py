"""A server under a steady load for long: its memory, files and threads do not grow, nor does the time of an answer.

    python benchmarks/serving/soak.py [--minutes N] [--rate N]

A small encoder over HTTP and gRPC by turns through tritonclient: sentences of many lengths, every answer compared with
the session's, some requests that are refused, some that their client leaves, new connections and reads of the metrics
in between. Memory is the server's resident one; before the time begins as many requests as in several minutes are sent
without a pause.
"""

import argparse
import json
import random
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[each]) for each in (0, 1)]

import numpy as np  # noqa: E402
import tritonclient.grpc  # noqa: E402
import tritonclient.http  # noqa: E402
from common import Spread, report  # noqa: E402
from subjects import Arrays, Server, build_encoder, sentence, served  # noqa: E402

WARM_REQUESTS = 10_000
MOST_GROWTH_MB, MOST_SLOWER = 4.0, 1.5
HIDDEN, VOCAB = 64, 500


@dataclass
class Case:
    arrays: Arrays
    expected: np.ndarray


@dataclass
class Minute:
    """What was seen in a minute."""

    resident_mb: float
    files: int
    threads: int
    cpu_share: float
    latencies_s: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--warm", type=int, default=WARM_REQUESTS, help="requests before the time begins")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine_dir = build_encoder(Path(folder), hidden=HIDDEN, layers=2, heads=4, vocab=VOCAB)
        cases = make_cases(engine_dir)
        with served(engine_dir) as server:
            clients = Clients(server, cases)
            for _ in range(arguments.warm):
                clients.ask()
            minutes = list(soak(server, clients, arguments.minutes, arguments.rate))
            clients.close()
    return told(minutes, clients)


def make_cases(engine_dir: Path) -> list[Case]:
    """Requests of 1 to 4 sentences of 1 to 64 tokens, with what the session gives for them."""
    import trtllm_ext as tx

    drawn = random.Random(0)
    with tx.Session.from_engine_dir(engine_dir) as session:
        shapes = [(drawn.randint(1, 4), drawn.randint(1, 64)) for _ in range(40)]
        given = [
            sentence(seed, sentences=count, tokens=length, vocab=VOCAB)
            for seed, (count, length) in enumerate(shapes)
        ]
        return [Case(each, session.run(each)["sentence_embedding"].copy()) for each in given]


class Clients:
    """tritonclient's two clients, which take turns and are made anew now and then."""

    def __init__(self, server: Server, cases: list[Case]) -> None:
        self._server, self._cases = server, cases
        self._drawn = random.Random(1)
        self._turn = 0
        self._open: dict[ModuleType, Any] = {}
        self.answered = self.refused = 0

    def ask(self) -> float:
        """One request, checked; returns its seconds. Raises SystemExit for a wrong answer."""
        self._turn += 1
        module = (tritonclient.http, tritonclient.grpc)[self._turn % 2]
        if self._turn % 200 < 2:
            self._new(module)
        if self._turn % 500 == 0:
            self._read_metrics()
        if self._turn % 100 < 2:
            self._hang_up(self._turn % 2 == 0)
        case = self._drawn.choice(self._cases)
        is_bad = self._turn % 50 < 2
        begin = time.perf_counter()
        try:
            answer = self._client(module).infer(
                "engine",
                given(module, case.arrays, "wrong" if is_bad else ""),
                outputs=[module.InferRequestedOutput("sentence_embedding")],
            )
        except tritonclient.utils.InferenceServerException as problem:
            if not (is_bad and "unknown input" in str(problem)):
                raise
            self.refused += 1
            return time.perf_counter() - begin
        took = time.perf_counter() - begin
        if np.abs(answer.as_numpy("sentence_embedding") - case.expected).max() > 1e-5:
            raise SystemExit("a wrong answer")
        self.answered += 1
        return took

    def close(self) -> None:
        for client in self._open.values():
            client.close()

    def _client(self, module: ModuleType) -> Any:
        if module not in self._open:
            self._new(module)
        return self._open[module]

    def _new(self, module: ModuleType) -> None:
        if module in self._open:
            self._open.pop(module).close()
        port = self._server.http_port if module is tritonclient.http else self._server.grpc_port
        self._open[module] = module.InferenceServerClient(f"127.0.0.1:{port}")

    def _hang_up(self, is_whole: bool) -> None:
        """Leave within a request, or after it and before its answer."""
        body = json.dumps({"inputs": [], "id": "x" * 5000}).encode()
        head = f"POST /v2/models/engine/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", self._server.http_port)) as connection:
            connection.sendall(head + (body if is_whole else body[:100]))

    def _read_metrics(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._server.metrics_port}/metrics") as answer:
            answer.read()


def given(module: ModuleType, arrays: Arrays, prefix: str) -> list[Any]:
    """The arrays as tritonclient sends them; with a prefix before their names."""
    made = []
    for name, array in arrays.items():
        made.append(module.InferInput(prefix + name, list(array.shape), "INT32"))
        made[-1].set_data_from_numpy(array)
    return made


def soak(server: Server, clients: Clients, minutes: int, rate: float) -> Iterator[Minute]:
    """Ask at `rate` a second; what was seen minute by minute."""
    due = time.perf_counter()
    for number in range(minutes):
        used, latencies = server.processor_seconds(), []
        end = time.perf_counter() + 60
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            latencies.append(clients.ask())
            due = max(due + 1 / rate, time.perf_counter() - 1)
        cpu_share = (server.processor_seconds() - used) / 60
        minute = Minute(server.resident_mb(), *server.held(), cpu_share, latencies)
        print(
            f"{number + 1} min: {minute.resident_mb:.1f} MB, {shown(latencies)}, {cpu_share:.1%} of a core",
            flush=True,
        )
        yield minute


def shown(latencies: list[float]) -> str:
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def told(minutes: list[Minute], clients: Clients) -> int:
    """Writes the table; 1 where something grew."""
    third = max(1, len(minutes) // 3)
    parts = {
        "first third": minutes[:third],
        "second": minutes[third:-third] or minutes,
        "last third": minutes[-third:],
    }
    rows = [
        [
            name,
            f"{Spread.of([each.resident_mb for each in part]):.1f}",
            f"{max(each.files for each in part)}, {max(each.threads for each in part)}",
            shown([took for each in part for took in each.latencies_s]),
            f"{np.mean([each.cpu_share for each in part]):.1%}",
        ]
        for name, part in parts.items()
    ]
    grown, slower = change(parts["first third"], parts["last third"])
    is_well = grown <= MOST_GROWTH_MB and slower <= MOST_SLOWER
    report(
        "serving_soak",
        ["of the time", "resident memory, MB", "most open files, threads", "time of an answer", "of a core"],
        rows,
        raw={
            "minutes": [
                {**vars(each), "latencies_s": np.percentile(each.latencies_s, (0, 50, 90, 99, 100)).tolist()}
                for each in minutes
            ]
        },
        notes=f"{clients.answered} answers, all compared with the session's, and {clients.refused} refusals, over HTTP "
        f"and gRPC by turns, {len(minutes)} minutes after the warm-up. From the first third to the last {grown:+.1f} "
        f"MB (at most {MOST_GROWTH_MB:g} are taken for noise), median time of an answer {slower:.2f} of what it was "
        f"(at most {MOST_SLOWER:g}).",
    )
    return 0 if is_well else 1


def change(first: list[Minute], last: list[Minute]) -> tuple[float, float]:
    """MB more, and how many times slower: of medians, which one busy minute does not move."""

    def median(part: list[Minute]) -> tuple[float, float]:
        times = [took for each in part for took in each.latencies_s]
        return float(np.median([each.resident_mb for each in part])), float(np.median(times))

    (mb_before, s_before), (mb_after, s_after) = median(first), median(last)
    return mb_after - mb_before, s_after / s_before


if __name__ == "__main__":
    sys.exit(main())
