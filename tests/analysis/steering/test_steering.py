"""Surgery from Python: what each verb gives, in one sublayer and in all, and what is refused by name."""

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from operated import engine_of, model_of, reference, session_of
from stack_forms import HIDDEN, TABLE, TOKENS, config_of, random_input

import trtllm_ext as tx
from trtllm_ext.analysis.steering import Surgery
from trtllm_ext.errors import EngineError, InputError

BUDGET_S = 2

pytestmark = pytest.mark.usefixtures("one_thread")

FIRST, LAST = (f"transformer.layers.{layer}.mlp.contribution" for layer in (0, 1))
AFTER = "transformer.layers.0.mlp.after"
X = {"hidden_states": random_input(config_of(TABLE["gpt2"]))}
RNG = np.random.default_rng(2)
VECTOR, ROWS = RNG.normal(size=HIDDEN), RNG.normal(size=(TOKENS, HIDDEN))
WHERE = np.arange(TOKENS) % 3 == 1


@pytest.fixture(scope="module")
def stack():
    config = config_of(TABLE["gpt2"])
    model = model_of(config)
    with session_of(engine_of(model, max_num_tokens=32, taps=["*"])) as session:
        yield config, {name: each.raw_value for name, each in model.named_parameters()}, session


@pytest.fixture(scope="module")
def encoder():
    config = small_config()
    model = model_of(config)
    with session_of(engine_of(model)) as session:
        yield config, {name: each.raw_value for name, each in model.named_parameters()}, session


def scale(number):
    return np.array([number], np.float32)


def placed(rows, where):
    return np.where(where[..., None], rows, 0.0)


CASES = {
    "scale": (lambda s: s.scale(FIRST, -0.5), {f"{FIRST}.scale": scale(-0.5)}),
    "drop": (lambda s: s.add(FIRST, VECTOR).drop(FIRST), {f"{FIRST}.scale": scale(0)}),
    "drop all": (lambda s: s.drop("*.contribution"), {f"{name}.scale": scale(0) for name in (FIRST, LAST)}),
    "replace": (lambda s: s.replace(LAST, ROWS), {f"{LAST}.scale": scale(0), f"{LAST}.add": ROWS}),
    "replace by a mean": (
        lambda s: s.replace(LAST, VECTOR),
        {f"{LAST}.scale": scale(0), f"{LAST}.add": np.tile(VECTOR, (TOKENS, 1))},
    ),
    "add everywhere": (lambda s: s.add(AFTER, VECTOR), {f"{AFTER}.add": np.tile(VECTOR, (TOKENS, 1))}),
    "add to some": (lambda s: s.add(AFTER, VECTOR, tokens=WHERE), {f"{AFTER}.add": placed(VECTOR, WHERE)}),
    "add twice, by number": (
        lambda s: s.add(AFTER, VECTOR, tokens=[1, 4, -2]).add(AFTER, ROWS),
        {f"{AFTER}.add": placed(VECTOR, WHERE) + ROWS},
    ),
    "scale and add": (
        lambda s: s.add(FIRST, VECTOR).scale(FIRST, 2),
        {f"{FIRST}.scale": scale(2), f"{FIRST}.add": np.tile(VECTOR, (TOKENS, 1))},
    ),
    "nothing": (lambda s: s.drop("*.contribution").clear(), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_verb_in_a_stack(name, stack):
    config, weights, session = stack
    ask, changes = CASES[name]
    surgery = Surgery(session)
    assert ask(surgery) is surgery
    asked = surgery.inputs(X)
    assert asked.keys() == changes.keys()
    expected = reference(
        config, weights, X, {key: value.astype(np.float64) for key, value in changes.items()}
    )
    for key, value in session.run({**X, **asked}).items():
        assert np.abs(value - expected[key]).max() <= 3e-6 * np.abs(expected[key]).max(), key


def test_an_encoder_is_steered_at_a_place_of_every_sentence_and_at_chosen_tokens(encoder):
    config, weights, session = encoder
    given, vector = sentences(), np.random.default_rng(3).normal(size=config.hidden_size)
    where = given["attention_mask"].astype(bool)
    first = np.zeros_like(where)
    first[:, 0] = True
    names = [f"transformer.layers.{layer}.attention.contribution" for layer in (0, 1)]
    surgery = (
        Surgery(session)
        .add(names[0], vector, tokens=where)
        .add(names[1], vector, tokens=[0])
        .drop("*.mlp.*ion")
    )
    changes = {f"{names[0]}.add": placed(vector, where), f"{names[1]}.add": placed(vector, first)}
    changes |= {f"transformer.layers.{layer}.mlp.contribution.scale": scale(0) for layer in (0, 1)}
    expected = reference(config, weights, given, changes)
    for key, value in session.run({**given, **surgery.inputs(given)}).items():
        assert np.abs(value - expected[key]).max() <= 1e-5 * np.abs(expected[key]).max(), key


def test_points_are_named_in_the_engines_order(stack):
    points = Surgery(stack[2]).points
    assert points[:3] == tuple(
        f"transformer.layers.0.mlp.{point}" for point in ("before", "contribution", "after")
    )
    assert len(points) == 6


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: s.drop("*.contributoin"), r"'\*\.contributoin' is nothing .* Did you mean \*\.contribution"),
        (lambda s: s.drop("zebra"), r"'zebra' is nothing .*\. Known: \*\.after, \*\.before, \*\.contribution\."),
        (lambda s: s.scale(AFTER, 2), rf"{AFTER} is the stream, which can be added to but not scaled"),
        (lambda s: s.replace("*", VECTOR), r"\.before is the stream"),
        (lambda s: s.scale(FIRST, "much"), "is 'much'; expected a number"),
        (lambda s: s.scale(FIRST, 1e39), "is 1e\\+39; expected a number that float32 holds"),
        (lambda s: s.add(FIRST, VECTOR[1:]), r"what is added to .* is float64 \(15,\); expected real numbers \(16,\)"),
        (lambda s: s.add(FIRST, ROWS, tokens=[0]), r"is float64 \(9, 16\); expected real numbers \(16,\)\.$"),
        (lambda s: s.add(FIRST, VECTOR + 1j), "is complex128"),
        (lambda s: s.add(FIRST, VECTOR, tokens=[0.5]), "tokens of .* are float64; expected whole numbers"),
        (lambda s: s.add(FIRST, VECTOR, tokens=[9]).inputs(X), r"are 9 to 9, and this run has 9, from 0 on"),
        (lambda s: s.add(FIRST, VECTOR, tokens=[True]).inputs(X), r"have shape \(1,\); this run's tokens are \(9,\)"),
        (lambda s: s.add(FIRST, ROWS[1:]).inputs(X), r"has shape \(8, 16\); this run's is \(9, 16\)"),
        (lambda s: s.add(FIRST, VECTOR).inputs({}), "input 'hidden_states', whose shape says how long .* is missing"),
        (lambda s: s.add(FIRST, VECTOR * np.inf).inputs(X), "would hold NaN or infinity in float32"),
        (lambda s: s.add(FIRST, VECTOR * 1e39).inputs(X), "add finite numbers within its range"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(ask, said, stack):
    with pytest.raises(InputError, match=said):
        ask(Surgery(stack[2]))


def test_an_engine_without_surgery():
    engine = tx.build(model_of(config_of(TABLE["gpt2"], layers=1)))
    with (
        session_of(engine) as session,
        pytest.raises(EngineError, match=r"built without surgery.* --surgery"),
    ):
        Surgery(session)
