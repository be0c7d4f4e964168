"""Every network of the zoo, built into an engine and run, against what the oracle says it means."""

import pytest
import zoo
from sampling import telling
from zoo.comparing import difference
from zoo.engine import network_and_engine, run

from trtllm_ext.oracle import evaluate

BUDGET_S = 15


@pytest.fixture(scope="module")
def trt():
    import trtllm_ext.embedded

    # These networks are too small to share out, and threads that wait awake for work use the processor.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        yield trtllm_ext.embedded


@pytest.mark.parametrize("case", telling(zoo.CASES), ids=str)
def test_engine_agrees_with_oracle(trt, case):
    """One context serves all feeds, and the first again at the end: nothing of another shape may stick."""
    feeds = case.feeds()
    network, engine = network_and_engine(case, trt, feeds)
    context = engine.create_execution_context()
    for feed in feeds:
        got = run(engine, trt, feed, context)
        want = evaluate(network, trt, feed)
        assert set(got) == set(want)
        complaints = [difference(case, name, got[name], want[name]) for name in sorted(want)]
        assert not any(complaints), (feed, complaints)
        if feed is feeds[0]:
            first = got
    again = run(engine, trt, feeds[0], context)
    for name, value in first.items():
        assert value.tobytes() == again[name].tobytes(), f"{name} differs when the first feed runs again"
