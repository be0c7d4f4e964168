"""Errors of others in our own messages."""


def brief(error: Exception) -> str:
    """What an exception says, on one line of at most 600 characters; its kind if it says nothing or cannot be asked."""
    try:
        text = str(error)
    except Exception:  # the application's exceptions may have code of their own
        text = ""
    return " ".join(text.split())[:600] or type(error).__name__
