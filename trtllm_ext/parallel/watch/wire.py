"""What goes over the wire between rank, watcher and hub, and the bytes that a rank shares with its watcher."""

from __future__ import annotations

import hmac
import json
import struct
from typing import Any

Message = dict[str, Any]

BEAT_S = 0.5  # between two signs of life
SILENCE_S = 5.0  # without one, after which the other side counts as gone
SILENT = f"not been heard of for {SILENCE_S:g} s: the host is down, or the network to it is cut"

# A rank's state: the number of its operation, what it does, and the id of the words for it.
STATE = struct.Struct("<QII")
COMPUTING, WAITING, BUSY, LEFT = range(4)
KINDS = ("computing", "waiting", "busy", "left")

HUB = "hub"
_LONGEST_LINE = 1 << 20


def encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def answer_to(challenge: str, token: str, speaker: str) -> str:
    """The proof of knowing the token, which itself never goes over the network.

    speaker: `HUB`, or the rank as text: what one has answered is of no use to whoever would pass for another.
    """
    text = f"{speaker} {challenge}".encode(errors="replace")
    return hmac.new(token.encode(), text, "sha256").hexdigest()


def is_answer(given: Any, challenge: str, token: str, speaker: str) -> bool:
    """Whether `given`, of whoever it may be, is `answer_to` the rest."""
    right = answer_to(challenge, token, speaker).encode()
    return hmac.compare_digest(str(given).encode(errors="replace"), right)


class Lines:
    """Bytes as they arrive, cut into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[Message]:
        """The messages that are complete now. Raises ValueError for what is none."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ValueError("a line without an end")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("a line of too many brackets") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line that is not a message")
        return messages

    def put_back(self, messages: list[Message]) -> None:
        """Give these again before what follows."""
        self._rest = b"".join(encode(message) for message in messages) + self._rest
