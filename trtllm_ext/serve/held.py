"""How much memory requests may take together, before they are arrays and after."""

from collections.abc import Iterator
from contextlib import contextmanager

from trtllm_ext.serve.refused import Reason, RefusalError

_REQUESTS = 8


class Held:
    """Counts the bytes of requests that are read or run, of both protocols: 8 times the largest one at most."""

    def __init__(self, max_request_bytes: int) -> None:
        self._most = _REQUESTS * max_request_bytes
        self._bytes = 0

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Meanwhile so many bytes are held. Raises RefusalError where that is too much."""
        self.add(size)
        try:
            self.check()
            yield
        finally:
            self.add(-size)

    def add(self, size: int) -> None:
        """So many bytes more; fewer, where negative."""
        self._bytes += size

    def check(self) -> None:
        """Raise RefusalError where too much is held."""
        if self._bytes > self._most:
            raise RefusalError(
                Reason.QUEUE_FULL,
                f"requests that are being read or run have {self._bytes} bytes, and this server holds up to "
                f"{self._most} ({_REQUESTS} times max_request_bytes); try again later.",
            )
