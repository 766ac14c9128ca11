"""Which draw a request is, and whether it fits."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from lm_eval.api.instance import Instance

from nabla_eval.errors import ConfigError, ContextError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.instances import LENGTHS, GenerationReader, fit, samples
from nabla_eval.protocol import Problem, TemplateAffixes
from nabla_eval.randomness import Key


def instance(doc, repeats=1, idx=0, prompt="p"):
    task = None if doc is None else "task"
    return Instance("generate_until", {}, (prompt, {}), idx, metadata=(task, doc, repeats))


ONE, TWO = instance(0, 2), instance(1, 2)


@pytest.mark.parametrize(
    ("requests", "alike", "found"),
    [
        # The same object k times is k repeats; further copies pad a short rank.
        ([ONE, ONE, TWO, TWO], False, {"0/0": [0], "0/1": [1], "1/0": [2], "1/1": [3]}),
        ([ONE, ONE] + [TWO] * 4, False, {"0/0": [0], "0/1": [1], "1/0": [2, 4], "1/1": [3, 5]}),
        # A method that never samples answers all repeats at once.
        ([ONE, ONE, TWO, TWO], True, {"0/0": [0, 1], "1/0": [2, 3]}),
    ],
)
def test_which_draws_requests_are(requests, alike, found):
    drawn = samples(requests, alike=alike)
    assert {sample.id: sample.places for sample in drawn} == {
        f"task/{name}": places for name, places in found.items()
    }
    assert len({sample.key(3).digest for sample in drawn}) == len(drawn)
    for sample in drawn:
        _, document, repeat = sample.id.split("/")
        assert sample.key(3) == Key.root(3) / "task" / int(document) / int(repeat)


def test_requests_of_one_document_are_known_by_their_number_and_those_of_no_task_by_their_prompt():
    assert [sample.repeat for sample in samples([instance(0), instance(0)])] == [0, 0]
    found = samples([instance(0, idx=0), instance(0, idx=1)])
    assert found[0].key(0) != found[1].key(0)
    assert found[0].key(0) == samples([instance(0)])[0].key(0)
    loose = instance(None, None, prompt="a")
    found = samples([loose, loose, instance(None, None, prompt="b")])
    assert len({sample.key(0).digest for sample in found}) == 3
    assert found[0].key(0) == samples([instance(None, None, prompt="a")])[0].key(0)


def problem(prompt=10, framed=4, wanted=50):
    affixes = TemplateAffixes((0,) * framed, ())
    return Problem(Key.root(0), (0,) * prompt, affixes, wanted, id="task/0/0")


def pair(policy=100, reward=100):
    judge = None if reward is None else SimpleNamespace(context=reward)
    return SimpleNamespace(policy=SimpleNamespace(context=policy), reward=judge)


@pytest.mark.parametrize(
    ("models", "asked", "length"),
    [
        (pair(), True, 50),
        (pair(60), True, 50),  # exactly full
        (pair(59), False, 49),  # nobody asked for 50
        (pair(100, 20), False, 16),
        (pair(100, None), True, 50),
    ],
)
def test_what_fits_is_kept(models, asked, length):
    assert fit(problem(), models, asked=asked).max_new_tokens == length


@pytest.mark.parametrize(
    ("models", "asked", "words"),
    [
        (pair(59), True, ["policy", "59", "max_gen_toks=49"]),
        (pair(10), False, ["policy", "10 tokens", "few-shot"]),
        (pair(100, 53), True, ["reward model", "53", "max_gen_toks=49"]),
        (pair(100, 4), False, ["reward model", "4 tokens"]),
    ],
)
def test_what_does_not_fit_is_refused(models, asked, words):
    with pytest.raises(ContextError) as error:
        fit(problem(), models, asked=asked)
    for word in [*words, "task/0/0"]:
        assert word in str(error.value)


def test_precedence_of_sampling_options():
    task = {"temperature": 0.9, "top_p": 0.5, "top_k": 3, "do_sample": True}
    given = GenerationReader(read({"preset": "paper", "temperature": 0.3}))(task).config.sampling
    assert (given.temperature, given.top_p, given.top_k) == (0.3, 0.5, 3)
    preset = GenerationReader(read({"preset": "paper"}))({}).config.sampling
    assert (preset.temperature, preset.top_p) == (0.5, 0.95)


def test_lengths_and_stop_strings():
    reader = GenerationReader(read({}), end="<eos>")
    asked = reader({"until": ["\n", "", "<eos>", "\n"], "max_new_tokens": 5, "max_gen_toks": 7})
    assert (asked.stop, asked.max_new_tokens) == (("\n",), 7)
    assert reader({"until": "Q:"}).stop == ("Q:",)
    assert reader({}).max_new_tokens is None and reader({}).stop == ()
    assert reader({"max_gen_toks": "8", "max_tokens": None}).max_new_tokens == 8
    assert reader({"until": None, "num_beams": 1, "repetition_penalty": 1.0}).stop == ()


@pytest.mark.parametrize("task", LENGTHS)
@pytest.mark.parametrize("given", LENGTHS)
def test_the_length_of_the_command_line_wins_over_the_tasks(task, given):
    """lm-eval updates the task's arguments by those of --gen_kwargs."""
    options = {"until": [";"], task: 1024, "do_sample": False}
    options.update({given: 16})
    reader = GenerationReader(read({"method": "greedy"}))
    assert reader(options).max_new_tokens == 16
    # The same arguments in another order are another request.
    assert reader({given: 16, task: 1024}).max_new_tokens == 1024


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1.0}, ["temprature", "temperature"]),
        ({"num_beams": 4}, ["num_beams=4", "no counterpart", "set it to 1"]),
        ({"repetition_penalty": 1.05}, ["no counterpart in --model nabla: leave it out"]),
        ({"stop": [";"]}, ["lm-eval's name is until. Try until=[';']."]),
        ({"max_length": 9}, ["lm-eval's name is max_gen_toks, which counts the tokens of the"]),
        ({"max_gen_toks": 0}, ["max_gen_toks must be", "got 0"]),
        ({"max_new_tokens": 0}, ["max_new_tokens must be", "got 0"]),
        ({"max_tokens": "many"}, ["max_tokens must be", "'many'"]),
        ({"until": 3}, ["until=3"]),
        ({"top_p": 1.5}, ["top_p must be", "1.5"]),
        ({"do_sample": "perhaps"}, ["do_sample", "perhaps"]),
        ({"steps": 3}, ["steps", "--model_args"]),
    ],
)
def test_generation_arguments_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError) as error:
        GenerationReader(read({}))(options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("task", [{"do_sample": False}, {"temperature": 0.0}])
def test_a_sampling_method_keeps_sampling_and_says_so_once(task, caplog):
    reader = GenerationReader(read({"method": "best_of_n", "temperature": 0.4}))
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        config = reader({**task, "max_gen_toks": 3}).config
        reader({**task, "max_gen_toks": 4})
    assert config == reader.arguments.config
    (record,) = caplog.records
    assert "best_of_n" in record.getMessage() and "temperature=0.4" in record.getMessage()


def test_greedy_stays_greedy_and_says_so_once(caplog):
    reader = GenerationReader(read({"method": "greedy"}))
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        reader({"do_sample": False})
        assert not caplog.records
        reader({"do_sample": True, "temperature": 0.6})
        reader({"do_sample": True, "temperature": 0.7})
    (record,) = caplog.records
    assert "greedy" in record.getMessage() and "0.6" in record.getMessage()
