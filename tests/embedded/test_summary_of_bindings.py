"""The committed summary of TensorRT's bindings beside the bindings themselves, where those can be had."""

import json

import pytest
from bindings import Unavailable, surface_of_bindings
from summary_of_bindings import RELEASES, TARGET, summary, text_of

BUDGET_S = 4


@pytest.fixture(scope="module")
def fetched(pytestconfig, tmp_path_factory):
    """What can be fetched of the releases: release -> its summary."""
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("tensorrt_bindings") if cache else tmp_path_factory.mktemp("tensorrt_bindings")
    found = {}
    for release in RELEASES:
        try:
            found[release] = summary(surface_of_bindings(folder, release))
        except Unavailable as reason:
            found[release] = str(reason)
    return found


def test_the_summary_is_of_the_bindings(fetched):
    missing = [reason for reason in fetched.values() if isinstance(reason, str)]
    if missing:
        pytest.skip("; ".join(missing))
    assert TARGET.read_text() == text_of(fetched)


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_that_can_be_fetched(fetched, release):
    found = fetched[release]
    if isinstance(found, str):
        pytest.skip(found)
    committed = json.loads(TARGET.read_text())
    alone = json.loads(text_of({release: found}))
    major = release.split(".")[0]
    assert {name for name in committed if here(committed[name], major) is not None} == set(alone)
    for name, entry in alone.items():
        if name != "releases":
            told = here(committed[name], major)
            if "members" in told:
                members = {key: here(each, major) for key, each in told["members"].items()}
                members = {key: each for key, each in members.items() if each is not None}
                told = {"bases": here(told["bases"], major), "members": members}
            assert told == entry, name


def here(entry, major):
    """What an entry of the summary says of one release; None for nothing."""
    if not isinstance(entry, dict) or "by release" not in entry:
        return entry
    return next((each for majors, each in entry["by release"].items() if major in majors.split()), None)
