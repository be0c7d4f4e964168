"""Why a request gets no answer, in the words and numbers of HTTP and gRPC."""

from enum import Enum


class Reason(Enum):
    """Each with its HTTP status and the name of its gRPC status."""

    INPUT = (400, "INVALID_ARGUMENT")
    NOT_FOUND = (404, "NOT_FOUND")
    TOO_SLOW = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    ENCODING = (415, "UNIMPLEMENTED")
    ENGINE = (500, "INTERNAL")
    QUEUE_FULL = (503, "RESOURCE_EXHAUSTED")
    STOPPING = (503, "UNAVAILABLE")

    @property
    def http_status(self) -> int:
        """The status of an HTTP response."""
        return self.value[0]

    @property
    def grpc_status(self) -> str:
        """A name of grpc.StatusCode."""
        return self.value[1]


class RefusalError(Exception):
    """What a client is told: a sentence without the server's paths."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
