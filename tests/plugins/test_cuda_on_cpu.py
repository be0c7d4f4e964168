"""CUDA on the CPU: kernels compute what they would on a GPU, and wrong ones are found out."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cpu_library import ADDRESS_SANITIZER, KERNELS, REPOSITORY, address_sanitizer, compile_on_cpu
from small_kernels import SOURCE, SmallKernels, line_of

BUDGET_S = 28  # it is the first to run: the kernels' library is compiled here, for all tests


@pytest.fixture(scope="module")
def small():
    return SmallKernels(compile_on_cpu([SOURCE], "small_kernels"))


@pytest.fixture(params=["forward", "backward"])
def order(request, monkeypatch):
    monkeypatch.setenv("CUDA_ON_CPU_ORDER", request.param)


def test_the_kernels_compile_and_export_what_their_header_declares(kernels_on_cpu):
    header = (KERNELS / "trtllm_ext_kernels.h").read_text()
    declared = set(re.findall(r"^TRTLLM_EXT_API [^(;]*?(\w+)\(", header, re.MULTILINE))
    assert "trtllm_ext_residual_norm" in declared
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", kernels_on_cpu], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert declared <= exported
    assert not [name for name in exported if name.startswith("cuda")], (
        "would be taken for CUDA's runtime by others"
    )


def test_every_thread_of_a_grid_runs_once(small, order):
    out = np.zeros(2 * 3 * 4 * 5 * 6 * 7, np.float32)
    assert small.launch("numbers", [0], out, grid=(2, 3, 4), block=(5, 6, 7)) == ""
    np.testing.assert_array_equal(out, np.arange(out.size))


@pytest.mark.parametrize("threads", [32, 256, 1024])
def test_shuffles_shared_memory_and_barriers_sum_rows(small, order, threads):
    x = np.random.default_rng(threads).normal(size=(5, 1003)).astype(np.float32)
    out = np.full(5, np.nan, np.float32)
    assert small.launch("row_sums", x, out, 1003, grid=(5, 1, 1), block=(threads, 1, 1)) == ""
    np.testing.assert_allclose(out, x.sum(axis=1, dtype=np.float64), atol=1e-4)


@pytest.mark.parametrize("width", [4, 16, 32])
def test_shuffles_read_the_lane_that_cuda_says(small, order, width):
    x = np.random.default_rng(width).normal(size=32).astype(np.float32)
    out = np.full((4, 32), np.nan, np.float32)
    assert small.launch("shuffles", x, out, width) == ""
    lane = np.arange(32)
    in_group, group = lane % width, lane - lane % width
    np.testing.assert_array_equal(out[0], x[lane ^ 3])
    np.testing.assert_array_equal(out[1], x[np.where(in_group + 3 < width, lane + 3, lane)])
    np.testing.assert_array_equal(out[2], x[np.where(in_group >= 3, lane - 3, lane)])
    np.testing.assert_array_equal(out[3], x[group + 3])


def test_parts_of_a_warp_go_their_own_ways(small, order):
    x = np.arange(32, dtype=np.float32)
    out = np.full(32, np.nan, np.float32)
    assert small.launch("half_warps", x, out) == ""
    np.testing.assert_array_equal(out[:16], x[:16].reshape(8, 2)[:, ::-1].ravel())
    np.testing.assert_array_equal(out[16:], x[16:].reshape(4, 4).sum(axis=1).repeat(4))


def test_votes_and_reductions(small, order):
    x = np.random.default_rng(3).integers(-3, 4, 32)
    out = np.full((6, 32), np.nan, np.float32)
    assert small.launch("votes", x, out) == ""
    counts = [np.count_nonzero(x == value) for value in x]
    wanted = [
        np.count_nonzero(x > 0),
        np.any(x > 2) + 2 * np.all(x > -9),
        counts,
        x.sum(),
        x.min(),
        x.max() + 9,
    ]
    np.testing.assert_array_equal(out, [np.broadcast_to(each, 32) for each in wanted])


@pytest.mark.parametrize("positive", [0, 7, 96])
def test_barriers_that_count(small, order, positive):
    out = np.full(96, np.nan, np.float32)
    assert small.launch("counting_barriers", np.arange(96) < positive, out, block=(96, 1, 1)) == ""
    np.testing.assert_array_equal(out, positive + 1000 * (positive > 0) + 2000 * (positive == 96))


def test_atomics(small, order):
    x = np.random.default_rng(5).integers(1, 1000, 4 * 64).astype(np.float32)
    out = np.zeros(7, np.float32)
    assert small.launch("atomics", x, out, grid=(4, 1, 1), block=(64, 1, 1)) == ""
    np.testing.assert_array_equal(out[:5], [x.sum(), *np.bincount(x.astype(int) % 4)])
    np.testing.assert_array_equal(out[5:].view(np.int32), x.max())


def test_dynamic_shared_memory_is_refused_beyond_what_was_asked_for(small):
    n = 15000  # more than 48 KiB
    x = np.arange(n, dtype=np.float32)
    out = np.zeros_like(x)
    assert "cudaErrorInvalidValue" in small.launch("reversed", x, out, n, shared_bytes=4 * n)
    assert small.take_last_error() == "cudaErrorInvalidValue"
    assert small.take_last_error() == "cudaSuccess"
    assert small.allow_shared_bytes("reversed", 300_000) != 0, "more than any device has"
    assert small.allow_shared_bytes("reversed", 4 * n) == 0
    assert small.launch("reversed", x, out, n, block=(96, 1, 1), shared_bytes=4 * n) == ""
    np.testing.assert_array_equal(out, x[::-1])


def test_shared_memory_begins_as_nan_in_every_block(small):
    out = np.zeros(3 * 64, np.float32)
    told = small.launch("shared_as_it_begins", [0], out, grid=(3, 1, 1), block=(64, 1, 1), shared_bytes=256)
    assert told == "" and np.isnan(out).all()


def test_launches_that_no_device_takes(small, monkeypatch):
    out = np.zeros(2048, np.float32)
    for grid, block in [((1, 1, 1), (2048, 1, 1)), ((0, 1, 1), (32, 1, 1)), ((1, 70000, 1), (32, 1, 1))]:
        assert "cudaErrorInvalidConfiguration" in small.launch("numbers", [0], out, grid=grid, block=block)
    monkeypatch.setenv("CUDA_ON_CPU_DEVICE", "none")
    assert "cudaErrorNoDevice" in small.launch("numbers", [0], out)
    assert not out.any()


@pytest.mark.parametrize(
    "kernel, n, words",
    [
        ("barrier_for_some", 40, "thread 40 has returned"),
        ("two_barriers_as_one", 40, "waits at __syncthreads"),
        ("shuffle_without_lane_n", 3, "thread 3 has returned"),
        ("shuffle_from_outside", 0, "reads from lane 16"),
        ("mask_without_caller", 0, "leaves its own lane out"),
    ],
)
def test_divergence_is_reported_with_its_line(small, order, kernel, n, words):
    out = np.zeros(64, np.float32)
    said = small.launch(kernel, [0], out, n, grid=(2, 1, 1), block=(64, 1, 1))
    assert said.startswith("cudaErrorLaunchFailure: block (")
    assert words in said and f"small_kernels.cu:{line_of(kernel)}" in said
    assert small.launch("numbers", [0], out, grid=(2, 1, 1)) == "", "the next launch is a new one"


def test_a_race_shows_in_one_of_the_orders(small, monkeypatch):
    x = np.random.default_rng(7).normal(size=64).astype(np.float32)
    got = []
    for order in ("forward", "backward"):
        monkeypatch.setenv("CUDA_ON_CPU_ORDER", order)
        got.append(np.zeros(64, np.float32))
        assert small.launch("missing_barrier", x, got[-1], block=(64, 1, 1)) == ""
    assert np.isnan(got[0]).any()
    assert not np.array_equal(*got, equal_nan=True)


def test_host_threads_launch_one_after_another(small):
    x = np.random.default_rng(9).normal(size=(8, 3, 500)).astype(np.float32)
    out = np.full((8, 3), np.nan, np.float32)
    with ThreadPoolExecutor(4) as pool:
        said = pool.map(lambda i: small.launch("row_sums", x[i], out[i], 500, grid=(3, 1, 1)), range(8))
    assert set(said) == {""}
    np.testing.assert_allclose(out, x.sum(axis=2, dtype=np.float64), atol=1e-4)


@pytest.mark.long
def test_the_kernels_stay_within_their_buffers_in_either_order(order):
    """All tests of kernels, those of the feed-forward's host code too, with AddressSanitizer."""
    files = [path for path in Path(__file__).parent.glob("test_*_on_cpu.py") if path != Path(__file__)]
    command = [sys.executable, "-m", "pytest", "-x", "-m", "not long", *map(str, files)]
    environment = {**address_sanitizer(), "CI": ""}  # budgets are for what is not slowed down
    ran = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert " passed" in ran.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "call, found",
    [
        ("'row_sums', np.ones((5, 1003)), np.zeros(5, 'f'), 1003, grid=(5, 1, 1), block=(256, 1, 1)", None),
        ("'barrier_for_some', [0], np.zeros(64, 'f'), 40, block=(64, 1, 1)", None),
        ("'reads_beyond_input', np.ones(999), np.zeros(1, 'f'), 999", "heap-buffer-overflow"),
        ("'writes_beyond_shared', [0], np.zeros(64, 'f'), 1, block=(64, 1, 1)", "global-buffer-overflow"),
    ],
)
def test_accesses_out_of_bounds_are_found(call, found):
    library = compile_on_cpu([SOURCE], "small_kernels", flags=ADDRESS_SANITIZER)
    program = (
        f"import numpy as np; from pathlib import Path; from small_kernels import SmallKernels\n"
        f"SmallKernels(Path({str(library)!r})).launch({call})"
    )
    here = str(Path(__file__).parent)
    environment = {**address_sanitizer(), "PYTHONPATH": here}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (ran.returncode == 0) == (found is None), ran.stderr
    assert found is None or (found in ran.stderr and "small_kernels.cu" in ran.stderr), ran.stderr
