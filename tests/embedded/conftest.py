"""What tests of engines begin with: a log, and a builder that writes to it."""

import pytest
from tiny_plans import Log

import trtllm_ext.embedded as trt


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def builder(log):
    return trt.Builder(log)
