"""Networks here are small: see `one_thread`."""

import pytest


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread):
    """For all tests of this folder."""
