"""Errors of others in our own messages."""


def brief(error: Exception) -> str:
    """What an exception says, on one line of at most 600 characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:600] or type(error).__name__
