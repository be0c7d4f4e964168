"""Commands as several ranks: the processes that a launcher started, or that --nproc starts."""

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from trtllm_ext.errors import InputError, RankError, TrtllmExtError

if TYPE_CHECKING:
    from trtllm_ext.parallel import Communicator

Result = TypeVar("Result")
TRACEBACK_VARIABLE = "TRTLLM_EXT_TRACEBACK"


# Commands for one process, and what they do in it.
_ONE_PROCESS = {
    "convert": "writes the files of all ranks",
    "inspect": "reads the engines of all ranks",
    "verify": "runs all ranks",
}
# Rank 0 alone tells what is the same for all.
_FIRST_ONLY = ("doctor",)
_HEAD_START_S = 1.0


def code_of_launched(command: str) -> int | None:
    """The exit code of a command for one process that a launcher started as several ranks; None where it may run.

    Rank 0 alone says why. No MPI is needed for that, which may be missing.
    """
    from trtllm_ext.parallel.world import NO_RANK, PROCESS_VARIABLE, launch_from

    try:
        launch = launch_from(os.environ)
    except RankError:  # matters to those who need ranks
        return None
    if launch is None or launch.size == 1:
        return None
    is_started_by_rank = PROCESS_VARIABLE in os.environ
    if command in _FIRST_ONLY and not is_started_by_rank and launch.rank > 0:
        return 0
    if command not in _ONE_PROCESS:
        return None
    if launch.rank == 0 or is_started_by_rank:
        way_out = f"with {PROCESS_VARIABLE}={NO_RANK}" if is_started_by_rank else "without mpirun"
        raise InputError(
            f"`trtllm-ext {command}` {_ONE_PROCESS[command]} in one process; start it {way_out}."
        )
    # OpenMPI's mpirun ends all ranks, rank 0 too, when the first one ends like this.
    time.sleep(_HEAD_START_S)
    return 1


def add_rank_options(parser: argparse.ArgumentParser) -> None:
    """--nproc and --no_self_test."""
    parser.add_argument(
        "--nproc",
        type=int,
        metavar="N",
        help="start N ranks of this command on this machine (mpirun -n N, with a sentence at the end if one fails)",
    )
    parser.add_argument(
        "--no_self_test",
        action="store_true",
        help="do not try the answer that was stored with an engine of several ranks",
    )


def on_ranks(
    arguments: argparse.Namespace, command: "Callable[[Communicator | None], int]", is_led: bool = False
) -> int:
    """The exit code of `command(world)`, run as the ranks that --nproc asks for, or as one of those of a launcher.

    world: None in a process that runs alone. is_led: rank 0 leads the others, and is sent the first signal that comes
    to the process that --nproc started them from, to finish what it has begun.
    What the command raises of this package's errors, it raises on all ranks: rank 0 tells it. Any other error ends all
    ranks.
    """
    from trtllm_ext import parallel

    if arguments.nproc is not None:
        _check_nproc(arguments)
        if arguments.nproc > 1:
            from trtllm_ext.parallel.launch import launch

            return launch(arguments.nproc, _without_nproc(arguments.argv), is_led=is_led)

    def without_rank(world: "Communicator | None") -> int:
        if world is not None and arguments.rank is not None:
            raise InputError(_NO_RANK.format(rank=arguments.rank))
        return command(world)

    return as_rank(parallel.world(), without_rank)


def as_rank(world: "Communicator | None", command: "Callable[[Communicator | None], int]") -> int:
    """`command(world)`; what it raises ends all ranks, and rank 0 tells it, as `on_ranks` says."""
    if world is None:
        return command(None)
    try:
        return command(world)
    except TrtllmExtError as problem:
        _end_all(world, str(problem))
    except OSError as problem:
        if problem.filename is not None:
            world.fail(f"{type(problem).__name__}: {problem}")
        raise  # one without a name is about what is printed, when all is done
    except Exception as problem:
        world.fail(f"{type(problem).__name__}: {problem}")
        raise


def _end_all(world: "Communicator", text: str) -> NoReturn:
    """Tell, on rank 0, what it has met as the others have, and end all ranks in good order with exit code 1."""
    told = world.exchange(text)
    if is_first(world):
        if set(told) != {text} and not re.search(r"\branks? \d", text):
            text = f"rank {world.rank}: {text}"  # its own trouble, of which the others were told
        if os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"):
            traceback.print_exc()
        print(f"trtllm-ext: error: {text}", file=sys.stderr, flush=True)
    world.exchange(None)  # a rank that was gone before rank 0 has spoken would be taken for one that failed
    raise SystemExit(1)  # as sys.exit() would be


def on_all(
    world: "Communicator | None", action: Callable[[], Result], note: Any = None, what: str = ""
) -> tuple[Result, list[Any]]:
    """`parallel.together`, or the action alone in a process that runs alone.

    what: what a rank does that may take long ("reading the input"), for which the others wait longer.
    """
    from trtllm_ext.parallel.together import together

    if world is not None:

        def busily() -> Result:
            with world.busy(what):
                return action()

        return together(world, busily if what else action, note)
    result = action()
    return result, [note(result) if callable(note) else note]


def is_first(world: "Communicator | None") -> bool:
    """Whether this process prints and writes."""
    return world is None or world.rank == 0


_NO_RANK = "--rank {rank} says whose engine one process loads alone; of several ranks each loads its own. Leave it out."


def _check_nproc(arguments: argparse.Namespace) -> None:
    from trtllm_ext.parallel.world import launch_from

    if arguments.nproc < 1:
        raise InputError(f"--nproc {arguments.nproc} is no number of ranks; give 1 or more.")
    if arguments.rank is not None and arguments.nproc > 1:
        raise InputError(_NO_RANK.format(rank=arguments.rank))
    launch = launch_from(os.environ)
    if launch is not None:
        raise InputError(
            f"--nproc {arguments.nproc} starts ranks, and this is one already: rank {launch.rank} of {launch.size} of "
            f"{launch.launcher}. Give one or the other."
        )


def _without_nproc(argv: list[str]) -> list[str]:
    kept, words = [], iter(argv)
    for word in words:
        if word == "--nproc":
            next(words, None)
        elif not word.startswith("--nproc="):
            kept.append(word)
    return kept
