"""What `trtllm-ext doctor` finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report; `state` is 'ok', 'absent' (optional, not needed now) or 'problem'."""

    state: str
    subject: str
    text: str
    fix: str = ""
