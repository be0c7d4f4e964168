"""Directories and files appear whole or not at all, whatever happens meanwhile."""

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from trtllm_ext.errors import BuildError, InputError
from trtllm_ext.runtime import atomic

BUDGET_S = 8


KIND = atomic.Kind(
    what="engine",
    files=re.compile(r"config\.json|(data|more)\.bin"),
    is_config=lambda config: "mine" in config,
    error=BuildError,
)


def replaced(path):
    return atomic.replaced_directory(path, KIND)


def write(path, text):
    with replaced(path) as staging, atomic.write_errors(path, BuildError):
        (staging / "data.bin").write_text(text)
        (staging / "config.json").write_text('{"mine": 1}')


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_new_and_replaced(tmp_path):
    target = tmp_path / "deep" / "engine"
    write(target, "one")
    assert names(target) == ["config.json", "data.bin"]
    write(target, "two")
    assert (target / "data.bin").read_text() == "two"
    assert names(target.parent) == ["engine"]


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_one(tmp_path, problem):
    target = tmp_path / "engine"
    write(target, "one")
    with pytest.raises(problem), replaced(target) as staging:
        (staging / "data.bin").write_text("half")
        raise problem
    assert (target / "data.bin").read_text() == "one"
    assert names(tmp_path) == ["engine"]


def test_a_failure_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(RuntimeError), replaced(tmp_path / "engine"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_foreign_files_are_not_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match=r"holds files that are no part of an earlier engine: thesis\.txt"):
        write(tmp_path, "one")
    assert names(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("config", ['{"model_type": "bert"}', "[1]", "{", None])
def test_files_of_the_same_names_are_not_deleted(tmp_path, monkeypatch, config, in_place):
    target = tmp_path / "model"
    target.mkdir()
    (target / "data.bin").write_text("years of work")
    if config is not None:
        (target / "config.json").write_text(config)
    if in_place:
        monkeypatch.chdir(target)
    before = {entry.name: entry.read_text() for entry in target.iterdir()}
    with pytest.raises(BuildError, match=", ".join(sorted(before))) as caught:
        write(target, "one")
    assert "holds files that are no part of an earlier engine" in str(caught.value)
    assert {entry.name: entry.read_text() for entry in target.iterdir()} == before


def test_a_write_in_place_that_was_cut_short_can_be_done_again(tmp_path, monkeypatch):
    target = tmp_path / "engine"
    write(target, "one")
    (target / "more.bin").write_text("of the earlier one")
    monkeypatch.chdir(target)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic.Path, "replace", cut)
        write(target, "two")
    assert not (target / "config.json").exists()
    (target / "late.txt").write_text("x")
    with pytest.raises(BuildError, match=r"earlier engine: late\.txt\."):
        write(target, "three")
    (target / "late.txt").unlink()
    write(target, "four")
    assert (target / "data.bin").read_text() == "four"
    assert names(target) == ["config.json", "data.bin"]


def test_a_foreign_file_that_arrives_meanwhile_is_not_deleted(tmp_path):
    target = tmp_path / "engine"
    write(target, "one")
    with pytest.raises(BuildError, match=r"late\.txt"), replaced(target):
        (target / "late.txt").write_text("x")
    assert "late.txt" in names(target)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "engine").write_text("")
    with pytest.raises(BuildError, match="it is a file, and the engine needs a directory"):
        write(tmp_path / "engine", "one")
    with pytest.raises(BuildError, match="a part of that path is a file, not a directory"):
        write(tmp_path / "engine" / "below", "one")


def test_the_current_directory_keeps_its_identity(tmp_path, monkeypatch):
    target = tmp_path / "engine"
    write(target, "one")
    (target / "more.bin").write_text("of the earlier one")
    monkeypatch.chdir(target)
    before = target.stat().st_ino
    write(target, "two")
    assert target.stat().st_ino == before
    assert names(target) == ["config.json", "data.bin"]
    assert (target / "data.bin").read_text() == "two"


def test_without_an_atomic_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = tmp_path / "engine"
    write(target, "one")
    write(target, "two")
    assert (target / "data.bin").read_text() == "two"
    assert names(tmp_path) == ["engine"]


def test_permissions_are_those_of_a_plain_directory(tmp_path):
    write(tmp_path / "engine", "one")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "engine").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BuildError, match=r"permission denied\. Choose a place that this user may write to"):
        write(tmp_path / "engine", "one")


def test_not_writable_for_anyone():
    with pytest.raises(BuildError, match=r"cannot write /proc/engine: "):
        write("/proc/engine", "one")


def test_errors_of_the_block_are_not_blamed_on_the_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source\.json"), replaced(tmp_path / "engine"):
        (tmp_path / "source.json").read_text()
    assert names(tmp_path) == []


def test_disk_full(tmp_path):
    """A file size limit stands in for a full disk: the same error path, and no root needed."""
    target = tmp_path / "engine"
    write(target, "one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(BuildError, match="the disk is full, or a quota or file size limit is reached"):
            write(target, "x" * 10000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (target / "data.bin").read_text() == "one"
    assert names(tmp_path) == ["engine"]


WRITER = textwrap.dedent("""
    import re, sys, time
    from pathlib import Path
    from types import ModuleType
    import trtllm_ext
    # This module of the package's and nothing else of the runtime: engines take a while to import.
    sys.modules["trtllm_ext.runtime"] = runtime = ModuleType("trtllm_ext.runtime")
    runtime.__path__ = [str(Path(trtllm_ext.__file__).with_name("runtime"))]
    from trtllm_ext.errors import BuildError
    from trtllm_ext.runtime.atomic import Kind, replaced_directory
    FILES = re.compile("config.json|data.bin")
    KIND = Kind(what="engine", files=FILES, is_config=lambda config: "mine" in config, error=BuildError)
    path, seconds, text = sys.argv[1:]
    try:
        with replaced_directory(path, KIND) as staging:
            (staging / "data.bin").write_text(text)
            print("writing", flush=True)
            sys.stdin.readline() if seconds == "until told" else time.sleep(float(seconds))
            (staging / "config.json").write_text('{"mine": 1}')
    except BuildError as problem:
        sys.exit(str(problem))
""")


def start_writer(path, seconds, text, cwd=None, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", before + WRITER, str(path), str(seconds), text],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_writer_is_told_who_is_first(tmp_path):
    target = tmp_path / "engine"
    first = start_writer(target, "until told", "first")
    assert first.stdout.readline() == "writing\n"
    second = start_writer(target, 0, "second")
    _, told = second.communicate(timeout=10)
    assert second.returncode == 1
    assert f"another process (pid {first.pid}) is writing the engine in {target} right now" in told
    first.communicate("go on\n", timeout=10)
    assert first.returncode == 0
    assert (target / "data.bin").read_text() == "first"
    assert names(tmp_path) == ["engine"]


# How a writer names the directory and where it stands; the last cannot write beside it.
CANNOT_WRITE_BESIDE = "import os; os.access = lambda path, mode: False\n"
WRITERS = {
    "beside": lambda target: {"path": target, "cwd": target.parent},
    "inside": lambda target: {"path": ".", "cwd": target},
    "in place": lambda target: {"path": target, "before": CANNOT_WRITE_BESIDE},
}


# By default each way is first and second once.
PAIRS = [
    pytest.param(
        first, second, id=f"{first}-{second}", marks=[] if (j - i) % len(WRITERS) == 1 else [pytest.mark.long]
    )
    for i, first in enumerate(WRITERS)
    for j, second in enumerate(WRITERS)
]


@pytest.mark.parametrize("first, second", PAIRS)
def test_two_writers_from_different_places(tmp_path, first, second):
    target = tmp_path / "engine"
    write(target, "one")
    holder = start_writer(seconds="until told", text="first", **WRITERS[first](target))
    assert holder.stdout.readline() == "writing\n"
    late = start_writer(seconds=0, text="second", **WRITERS[second](target))
    _, told = late.communicate(timeout=10)
    assert late.returncode == 1, "both got in"
    assert f"another process (pid {holder.pid}) is writing the engine in {target} right now" in told
    holder.kill()
    holder.communicate(timeout=10)
    write(target, "third")
    assert (target / "data.bin").read_text() == "third"


def test_many_at_once_leave_one_whole_result(tmp_path):
    target = tmp_path / "engine"
    writers = [start_writer(target, 0.05, str(index)) for index in range(4)]
    codes = [writer.wait(timeout=20) for writer in writers]
    for writer in writers:
        writer.communicate()
    assert 0 in codes
    assert names(target) == ["config.json", "data.bin"]
    assert names(tmp_path) == ["engine"]


@pytest.mark.parametrize("had_one", [False, True])
def test_killed_while_writing(tmp_path, had_one):
    """SIGKILL leaves the earlier result, and what lies about is cleared by the next writer."""
    target = tmp_path / "engine"
    if had_one:
        write(target, "one")
    writer = start_writer(target, 30, "half")
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=10)
    assert target.exists() == had_one
    if had_one:
        assert (target / "data.bin").read_text() == "one"
    write(target, "two")
    assert (target / "data.bin").read_text() == "two"
    assert names(tmp_path) == ["engine"]


def test_a_reader_never_sees_half(tmp_path):
    """While one is replaced by another over and over, what is read is always one of them, whole."""
    target = tmp_path / "engine"
    write(target, "0")
    code = WRITER.replace("    try:", "").split("path, seconds")[0]
    code += textwrap.dedent("""
        for index in range(100):
            with replaced_directory(sys.argv[1], KIND) as staging:
                for name in ("config.json", "data.bin"):
                    (staging / name).write_text(f'{{"mine": {index}}}')
    """)
    writer = subprocess.Popen([sys.executable, "-c", code, str(target)])
    reads = 0
    deadline = time.monotonic() + 10
    while writer.poll() is None and time.monotonic() < deadline:
        handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = sorted(os.listdir(handle))  # noqa: PTH208 - a Path cannot hold a directory open
        finally:
            os.close(handle)
        # An opened directory that has been exchanged is emptied afterwards; by name it is always whole.
        assert set(found) <= {"config.json", "data.bin"}
        reads += 1
    assert writer.wait(timeout=10) == 0
    assert reads > 10
    assert names(target) == ["config.json", "data.bin"]


def test_a_file_is_replaced_or_left(tmp_path):
    path = tmp_path / "out.npz"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.replaced_file(path, error=InputError) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic.replaced_file(path, error=InputError) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out.npz"]


@pytest.mark.parametrize("has_unnamed", [True, False])
def test_a_new_file_is_as_others_are(tmp_path, monkeypatch, has_unnamed):
    if not has_unnamed:
        monkeypatch.setattr(atomic, "_unnamed_file", lambda folder: None)
    path, other = tmp_path / "out", tmp_path / "other"
    other.touch()
    with atomic.replaced_file(path, error=InputError) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode == other.stat().st_mode
    with pytest.raises(RuntimeError), atomic.replaced_file(path, error=InputError) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert names(tmp_path) == ["other", "out"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_process_that_is_killed_leaves_no_file(tmp_path):
    program = (
        "import os, sys; from trtllm_ext.runtime.atomic import replaced_file\n"
        "with replaced_file(sys.argv[1], error=Exception) as path: path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    assert names(tmp_path) == []


def test_a_file_where_none_can_be(tmp_path):
    with (
        pytest.raises(InputError, match="there is no directory"),
        atomic.replaced_file(tmp_path / "no" / "out", error=InputError),
    ):
        pass
    with (
        pytest.raises(InputError, match="it is a directory"),
        atomic.replaced_file(tmp_path, error=InputError),
    ):
        pass


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):  # also where the link led nowhere yet
        with atomic.replaced_file(link, error=InputError) as temporary:
            temporary.write_text(text)
        assert target.read_text() == text
        assert link.is_symlink()
    assert names(tmp_path / "deep") == ["target"]


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, linked):
    pipe, path = tmp_path / "pipe", tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    before = names(tmp_path)
    with (
        pytest.raises(InputError, match=rf"cannot write {path}: it is no regular file \(a device, a pipe"),
        atomic.replaced_file(path, error=InputError),
    ):
        pytest.fail("the block must not run")
    assert pipe.is_fifo()
    assert names(tmp_path) == before


def test_a_pipe_that_arrives_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out"
    with (
        pytest.raises(InputError, match="it is no regular file"),
        atomic.replaced_file(path, error=InputError) as temporary,
    ):
        temporary.write_text("new")
        os.mkfifo(path)
    assert path.is_fifo()
    assert names(tmp_path) == ["out"]


def test_a_link_to_itself(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path)
    with (
        pytest.raises(InputError, match=r"loop: too many levels"),
        atomic.replaced_file(path, error=InputError),
    ):
        pytest.fail("the block must not run")
