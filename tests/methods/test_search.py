"""Beam search and tree of thought on trees whose every value is known, and useless output."""

from __future__ import annotations

import itertools
import math

import pytest
from scripted_trees import PROBLEM, SEMICOLON, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import ConfigError
from nabla_eval.methods.registry import configure, start
from nabla_eval.methods.search import aggregated, partial_reward
from nabla_eval.methods.tree_of_thought import choice, thoughts, word
from nabla_eval.options import fingerprint, flatten
from nabla_eval.protocol import RewardScore
from nabla_eval.randomness import Key
from nabla_eval.traces.schema import complete


def solve(method, script, **options):
    stepped = SEMICOLON if method in SEARCHES else {}
    config = configure(method, {**stepped, **options})
    (outcome,) = drive_all([start(PROBLEM, config)], script)
    return outcome


POOLS = {"greedy": {}, "self_consistency": {"n": 3}, "best_of_n": {"n": 3},
         "weighted_best_of_n": {"n": 3}}  # fmt: skip
SEARCHES = {"beam": {}, "dvts": {}, "particle_filtering": {}, "tree_of_thought": {},
            "rap": {"iterations": 2}}  # fmt: skip


def full_tree(branching, depth, seed):
    """All paths of `depth` steps; any text's worth is a fixed random number."""

    def children(text, i):
        last = text.count(";") == depth - 1
        return f"{i % branching}" + ("." if last else ";")

    return children, lambda text: (Key.root(seed) / text).uniform()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("method", "width"),
    [("tree_of_thought", {"breadth": 9, "proposals": 3}), ("beam", {"beams": 9, "width": 3})],
)
def test_the_exhaustive_best_is_found_when_the_breadth_covers_the_tree(method, width, seed):
    children, worth = full_tree(3, 3, seed)
    leaves = [f"{a};{b};{c}." for a, b, c in itertools.product(range(3), repeat=3)]
    outcome = solve(method, ScriptedTree(children, worth), **width)
    assert outcome.text == max(leaves, key=worth) and outcome.reward == worth(outcome.text)
    assert outcome.ended == "done" and len(outcome.drafts) == 27
    assert len(outcome.steps) == 3 + 9 + 27


def test_a_narrow_search_keeps_the_best_states_of_each_level():
    """b = 1 follows the best state, though the best leaf lies behind the other."""
    children = lambda text, i: "ab"[i % 2] + (";" if not text else ".")  # noqa: E731
    worth = {"a;": 1.0, "b;": 2.0, "a;a.": 9.0, "a;b.": 8.0, "b;a.": 3.0, "b;b.": 4.0}
    narrow, wide = (
        solve("tree_of_thought", ScriptedTree(children, worth.get), breadth=breadth, proposals=2)
        for breadth in (1, 2)
    )
    assert (narrow.text, narrow.reward, wide.text) == ("b;b.", 4.0, "a;a.")
    trace = [(s.parent, s.text, s.value) for s in narrow.steps]
    assert trace == [(None, "a;", 1.0), (None, "b;", 2.0), (1, "a.", 3.0), (1, "b.", 4.0)]


def test_equal_steps_are_judged_once_and_complete_responses_are_not_judged_again():
    children = lambda text, i: "x." if i or text.count(";") > 3 else "y;"  # noqa: E731
    script = ScriptedTree(children, lambda text: float(len(text)))
    outcome = solve("beam", script, beams=2, width=2, depth=3)
    assert len(script.scored) == len(set(script.scored))
    assert outcome.text.endswith(".") and outcome.ledger.scorings == len(script.scored)


def test_the_last_level_writes_to_the_end():
    script = ScriptedTree(lambda text, i: "a;" if len(text) < 8 else "b.", lambda text: 0.0)
    outcome = solve("beam", script, depth=2)
    assert outcome.text == "a;a;a;a;b." and max(s.index for s in outcome.steps) == 1


def test_the_first_level_is_as_wide_as_all_later_ones_together():
    """beams * width steps at first, then `width` after each of `beams`."""
    outcome = solve("beam", ScriptedTree(*full_tree(9, 3, 0)), beams=2, width=3)
    parents = [step.parent for step in outcome.steps]
    assert parents.count(None) == 6
    assert sorted({parents.count(p) for p in parents if p is not None}) == [3]
    assert len({p for p in parents if p is not None}) == 4  # two levels of two


def test_a_complete_response_keeps_its_place_in_the_beam():
    """`done.` is the best of the first level, so of `b;x;` and `b;y;` only the better goes on."""
    tree = {"": ["done.", "b;"], "b;": ["x;", "y;"], "b;x;": ["1.", "2."], "b;y;": ["1.", "2."]}
    worth = {"done.": 3.0, "b;": 2.0, "b;x;": 1.0, "b;y;": 0.5}
    script = ScriptedTree(lambda text, i: tree[text][i % 2], lambda text: worth.get(text, 0.0))
    outcome = solve("beam", script, beams=2, width=2)
    assert outcome.text == "done." and outcome.reward == 3.0
    assert script.scored.count("done.") == 1 and not any(
        "b;y;" in text for text in script.scored[4:]
    )


# Of the scores 2, -1 and 0.8: the value of the response after each step.
SIGMOIDS = [1 / (1 + math.exp(-score)) for score in (2.0, -1.0, 0.8)]
STEP_SCORES = {
    "last": [2.0, -1.0, 0.8],
    "min": [2.0, -1.0, -1.0],
    "mean": [2.0, 0.5, 0.6],
    "prod": [math.log(math.prod(SIGMOIDS[:steps])) for steps in (1, 2, 3)],
    "sum": [2.0, 1.0, 1.8],
}


@pytest.mark.parametrize("rule", STEP_SCORES)
@pytest.mark.parametrize("method", ["beam", "dvts", "particle_filtering", "tree_of_thought"])
def test_step_scores_become_one_value(method, rule):
    scores = {"a;": 2.0, "a;b;": -1.0, "a;b;c.": 0.8}
    script = ScriptedTree(lambda text, i: "abc"[text.count(";")] + ";;."[text.count(";")],
                          scores.get)  # fmt: skip
    outcome = solve(method, script, step_score=rule)
    assert [step.value for step in outcome.steps] == pytest.approx(STEP_SCORES[rule])
    assert outcome.text == "a;b;c." and outcome.reward == 0.8


def test_a_product_of_far_scores_neither_overflows_nor_vanishes():
    assert aggregated("prod", [-1000.0, 1000.0]) == -1000.0


@pytest.mark.parametrize(("method", "old"), [("beam", "aggregate"), ("rap", "path_reward")])
def test_step_score_replaces_the_methods_own_names(method, old):
    with pytest.raises(ConfigError, match="Did you mean step_score"):
        configure(method, {old: "min"})
    now = flatten(configure(method, {"step_score": "prod"}))
    then = {name: value for name, value in now.items() if name != "step_score"} | {old: "product"}
    assert complete(method, then, fingerprint(then)) == now
    assert complete(method, then, "another") == then  # not as it was written: left alone


def test_a_process_rewards_last_prefix_score_is_a_steps_and_the_reward_a_responses():
    score = RewardScore(5.0, (1.0, 2.0, 3.0))
    assert partial_reward(trajectory("ab;", "step"), score) == 3.0
    assert partial_reward(trajectory("ab."), score) == 5.0
    assert partial_reward(trajectory("ab;", "step"), RewardScore(5.0)) == 5.0


def written(write):
    """A script in which every response is what `write` makes of its request."""
    script = ScriptedTree(None, lambda text: 0.0, says=lambda question, i: "so")
    script.write = write
    return script


def endless(request):
    return trajectory("x" * request.problem.max_new_tokens, "length")


@pytest.mark.parametrize("method", POOLS)
def test_samples_that_run_away_are_counted(method):
    outcome = solve(method, written(endless), **POOLS[method])
    assert outcome.stop == "length" and outcome.stats()["truncated"]
    assert outcome.malformed == POOLS[method].get("n", 1)
    whole = written(lambda request: trajectory("ok."))
    assert solve(method, whole, **POOLS[method]).malformed == 0


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize(
    ("write", "note"),
    [
        (endless, "cut off: max_new_tokens"),
        (lambda request: trajectory("", "step"), "no step ended within 3 tokens"),
        (lambda request: trajectory("abc", "step"), "no step ended within 3 tokens"),
    ],
)
def test_searches_whose_every_step_is_useless_stop_and_say_so(method, write, note):
    script = written(write)
    outcome = solve(method, script, step_tokens=3, **SEARCHES[method])
    assert outcome.ended == "malformed" and outcome.stats()["truncated"] and not script.scored
    assert outcome.malformed == len(outcome.steps) > 0
    assert {step.note for step in outcome.steps} == {note}


def test_a_runaway_response_is_no_answer_where_another_ends():
    count = itertools.count()
    script = written(
        lambda request: endless(request) if next(count) % 2 == 0 else trajectory("ok.")
    )
    outcome = solve("beam", script)
    assert outcome.text == "ok." and outcome.ended == "done"
    assert [s.note for s in outcome.steps] == ["cut off: max_new_tokens", ""]
    assert outcome.malformed == 1


def test_what_max_calls_cut_short_is_no_fault_of_the_policy():
    outcome = solve("best_of_n", written(endless), n=3, max_calls=30)
    assert outcome.ended == "max_calls" and outcome.malformed == 0


def tot(script, **options):
    return solve("tree_of_thought", script, evaluator="self", depth=3, **options)


def test_the_policy_values_states_by_the_sum_of_its_words():
    children = lambda text, i: "ab"[i] + (";" if not text else ".")  # noqa: E731
    replies = {"a;": ["sure", "likely", "dunno"], "b;": ["Impossible."] * 3}

    def says(question, i):
        state = question.split("so far:\n")[1].split("\n")[0]
        return replies.get(state, ["It is likely"] * 3)[i]

    outcome = tot(ScriptedTree(children, says=says), proposals=2, breadth=1)
    values = {s.text: s.value for s in outcome.steps[:2]}
    assert values == {"a;": 21.0, "b;": pytest.approx(0.003)}
    assert outcome.text == "a;a." and outcome.reward is None
    assert outcome.steps[0].note == "1 valuations without a value"


def test_votes_are_counted_and_invalid_ones_noted():
    replies = ["The best choice is 2", "The best choice is 2", "The best choice is 7"]
    script = ScriptedTree(lambda text, i: "ab"[i] + ".", says=lambda q, i: replies[i])
    outcome = tot(script, proposals=2, evaluation="vote")
    assert outcome.text == "b." and [s.value for s in outcome.steps] == [0.0, 2.0]
    assert outcome.steps[0].note == "1 votes for nothing"


def propose(first, later, worth=lambda text: 0.0, **options):
    says = lambda question, i: first if "so far:\n\n" in question else later  # noqa: E731
    script = ScriptedTree(lambda text, i: " end.", worth, says=says)
    return solve("tree_of_thought", script, generation="propose", **options)


def test_proposed_steps_are_the_lines_of_one_reply():
    outcome = propose("one\ntwo\nthree\nfour", "FINISHED", lambda text: float("two" in text),
                      proposals=3, depth=4)  # fmt: skip
    assert [s.text for s in outcome.steps[:3]] == ["one;", "two;", "three;"]
    assert outcome.text == "two; end." and outcome.reward == 1.0


def test_a_proposal_fits_to_the_last_byte():
    """A token is at least a byte; a line with its ending may fill the room exactly."""
    outcome = propose(f"{'x' * 59}\n{'y' * 60}", "FINISHED", proposals=2, depth=2)
    assert [s.text for s in outcome.steps[:1]] == [f"{'x' * 59};"]
    assert not any("y" in s.text for s in outcome.steps)


def test_empty_proposals_stop_the_search_and_say_so():
    outcome = propose("one", " ", depth=4)
    assert outcome.ended == "malformed" and outcome.text == "one;"
    assert outcome.steps[0].note == "no proposals: empty" and outcome.malformed == 1


@pytest.mark.parametrize(
    ("read", "reply", "found"),
    [
        (word, "sure it is not. Likely", "likely"),
        (word, "likely at first, impossible in the end", "impossible"),
        (word, "<think>sure</think> unlikely", None),
        (lambda reply: choice(reply, 3), "1 is worse, the best choice is 3", 2),
        (lambda reply: choice(reply, 3), "the best choice is 0", None),
        (lambda reply: choice(reply, 1), "the best choice is 1", 0),
        (lambda reply: choice(reply, 3), "9" * 5000, None),
        (thoughts, "a\n\n b ", ["a", "b"]),
    ],
)
def test_reading_replies(read, reply, found):
    assert read(trajectory(reply)) == found
    assert not read(None) and thoughts(trajectory(reply, "length")) == []


def test_proposals_need_a_delimiter_by_name():
    with pytest.raises(ConfigError, match="generation"):
        configure("tree_of_thought", {"generation": "propose", "step": "tokens"})
