"""What stands between the server and an engine: named arrays in, named arrays out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trtllm_ext.serve.joining import Arrays, Joining


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output as clients know it.

    datatype: the protocol's name, such as "FP32"; values of "BYTES" are numpy object arrays of bytes.
    shape: -1 where a dimension may vary.
    check_shape: raises InputError for a shape that no run takes, before an input's elements are read: their list may be
        a million times as long.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    check_shape: Callable[[tuple[int, ...]], None] | None = field(default=None, compare=False)


@dataclass(kw_only=True)
class Runner(ABC):
    """Runs a batch of checked named arrays, and gives named arrays.

    How the server uses one:
    - It is made before anything listens, in the main thread; what that raises ends the command with its sentence.
    - `check` is called for each request, in the thread that also reads and writes the network, so it must be quick.
      It raises InputError, whose text goes to the client: no paths, no addresses. Names, types and numbers of
      dimensions have been compared with `inputs` before.
    - `run` and `beat` are called in turn by one thread, the runner's own, which lives as long as the server. `run` gets
      all `inputs`, contiguous, of one request or of several joined as `joining` says, and returns all `outputs` with
      the joined dimension as long as that of the inputs. If it raises one of this package's errors for a joined batch,
      its requests are run one by one, so that only those that are at fault get the error.
    - RankError, and anything that is not an Exception, means that this runner can run no more: requests that wait get
      an error, and the server ends with that sentence and exit code 1.
    - `close` is called once, by the runner's thread, when the last request has been answered or given up.

    To serve something else than a session's tensors (text, several ranks), subclass this or `SessionRunner`.

    inputs, outputs: what clients send and get. joining: how requests become one batch; None runs each alone.
    beat_s: after so many seconds without a run `beat` is called, again and again; None for never.
    description: what the model's metadata say besides (such as "build_id"), texts by name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    joining: Joining | None = None
    beat_s: float | None = None
    description: Mapping[str, str] = field(default_factory=dict)

    def check(self, arrays: Arrays) -> None:  # noqa: B027 - nothing to check is an answer
        """Raise InputError for a request that cannot be run, whatever it is joined with."""

    @abstractmethod
    def run(self, arrays: Arrays) -> Arrays:
        """Every output by name. Raises this package's errors."""

    def beat(self) -> None:  # noqa: B027 - a process alone has nobody to tell
        """Tell others that this process lives, though there is nothing to do."""

    def close(self) -> None:  # noqa: B027 - nothing to give back is an answer
        """Give back what the runner holds."""
