"""TPO against a script of what the policy says, and its prompts as files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from scripted_trees import PROBLEM, ScriptedTree, trajectory

from nabla_eval import generate, load_pair
from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.methods.questions import PLACES, Prompts
from nabla_eval.methods.registry import configure, start
from nabla_eval.testing import tiny_pair

DRAFTS = ["bad", "good"]
WORTH = {"bad": 0.0, "good": 1.0, "better": 3.0, "best": 4.0, "worse": 2.0, "worst": -1.0}


def scripted(critiques=("critique 1", "critique 2"), gradients=("do 1", "do 2")):
    replies = {"Two responses": iter(critiques), "A response": iter(gradients)}
    revisions = iter(["better", "worse", "worst", "best"])

    def says(question, i):
        kinds = [own for start, own in replies.items() if question.startswith(start)]
        return next(kinds[0] if kinds else revisions)

    return ScriptedTree(lambda text, i: DRAFTS[i], WORTH.__getitem__, says)


def solve(script, **options):
    (outcome,) = drive_all([start(PROBLEM, configure("tpo", options))], script)
    return outcome


def test_the_transcript_equals_the_script():
    script = scripted()
    outcome = solve(script)
    assert outcome.text == "best" and outcome.reward == 4.0 and outcome.ended == "budget"
    drafts = ["bad", "good", "better", "worse", "worst", "best"]
    assert [d.text for d in outcome.drafts] == drafts == script.scored
    assert [(s.kind, s.text, s.parent) for s in outcome.steps] == [
        ("critique", "critique 1", None), ("gradient", "do 1", 0),
        ("revision", "better", 1), ("revision", "worse", 1),
        ("critique", "critique 2", 3), ("gradient", "do 2", 4),
        ("revision", "worst", 5), ("revision", "best", 5),
    ]  # fmt: skip
    fill = partial(Prompts().fill, problem=PROBLEM)
    assert script.questions == [
        fill("tpo_loss", chosen="good", rejected="bad"),
        fill("tpo_gradient", chosen="good", critique="critique 1"),
        fill("tpo_update", chosen="good", gradient="do 1"),
        fill("tpo_loss", chosen="better", rejected="bad"),
        fill("tpo_gradient", chosen="better", critique="critique 2"),
        fill("tpo_update", chosen="better", gradient="do 2"),
    ]


@pytest.mark.parametrize(
    ("reply", "note"), [(" ", "empty"), (trajectory("so so", "length"), "runaway length")]
)
@pytest.mark.parametrize("kind", ["critique", "gradient"])
def test_a_reply_of_no_use_ends_it_with_the_best_so_far(kind, reply, note):
    outcome = solve(scripted(**{f"{kind}s": (reply,)}))
    assert outcome.ended == "malformed" and outcome.text == "good"
    assert (outcome.steps[-1].kind, outcome.steps[-1].note) == (kind, note)
    assert outcome.malformed == outcome.stats()["malformed"] == 1


def asked_for(options, method="tpo", longest=60):
    """The most tokens of the replies that a method asks for, of responses up to so many."""
    script, lengths = scripted(), []

    def execute(requests):
        lengths.extend(r.max_new_tokens for r in requests if type(r).__name__ == "Compose")
        return script(requests)

    problem = replace(PROBLEM, max_new_tokens=longest)
    drive_all([start(problem, configure(method, options))], execute)
    return lengths[:2]  # a critique and its instructions


def test_replies_are_no_longer_than_responses_unless_asked_for():
    assert asked_for({}) == [60, 60]
    assert asked_for({}, longest=9000) == [2048, 2048]
    assert asked_for({"reply_tokens": 100}) == [100, 100]
    assert asked_for({"reply_tokens": "none"}) == [60, 60]
    with pytest.raises(ConfigError, match="reply_tokens must be an integer >= 1 or none, got 0"):
        configure("tree_of_thought", {"reply_tokens": 0})


def test_equal_responses_leave_nothing_to_compare():
    script = ScriptedTree(lambda text, i: "good", WORTH.__getitem__)
    outcome = solve(script)
    assert outcome.ended == "done" and outcome.text == "good" and not script.questions


def test_a_policy_that_cannot_be_asked_is_refused_before_it_writes():
    with pytest.raises(ModelError, match="cannot be asked"):
        generate(load_pair(), "1,2=3?", method="tpo")
    with pytest.raises(ModelError, match="no chat template"):
        generate(tiny_pair(), "ab", method="tree_of_thought", evaluator="self")


def test_prompts_are_files_that_users_replace(tmp_path):
    (tmp_path / "tpo_loss.txt").write_text("Two responses to {question}: {chosen}, {rejected}.")
    prompts = Prompts(prompts=str(tmp_path))
    assert prompts.fill("tpo_loss", PROBLEM, chosen="{chosen}", rejected="{question}") == (
        "Two responses to What?: {chosen}, {question}."
    )  # what is filled in is not looked into
    assert prompts.text("tpo_update") == Prompts().text("tpo_update")
    script = scripted()
    solve(script, prompts=str(tmp_path))
    assert script.questions[0] == "Two responses to What?: good, bad."


def test_every_prompt_of_the_package_has_its_places():
    for name in PLACES:
        assert Prompts().text(name)


@pytest.mark.parametrize("name", ["x" * 500, "x/" * 3000, "a\0b", "\ud800", "", "/dev/null"])
def test_what_no_folder_is_called_is_refused(name):
    with pytest.raises(ConfigError, match="a folder of prompt files"):
        configure("tpo", {"prompts": name})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("tpo_loss", "{chosen}", "question"), ("tpo_los", "x", "tpo_loss"), (None, "", "folder")],
)
def test_bad_prompts_are_refused_when_they_are_named(tmp_path, name, text, said):
    folder = tmp_path / ("none" if name is None else "")
    if name is not None:
        (folder / f"{name}.txt").write_text(text)
    with pytest.raises(ConfigError, match=said):
        configure("tpo", {"prompts": str(folder)})
