"""Options: validated when made, flat on the command line, and said where they leave nothing."""

from __future__ import annotations

import logging
import math
import re

import pytest

from nabla_eval import generate, load_pair
from nabla_eval.errors import ConfigError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.instances import GenerationReader
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.registry import METHODS, configure, option_names
from nabla_eval.options import DTO, change, fingerprint, flatten
from nabla_eval.testing import tiny_pair


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("nabla", {"stepz": 3}, "Method nabla has no option 'stepz'. Did you mean steps"),
        ("nabl", {}, "Unknown method 'nabl'. Did you mean nabla?"),
        ("greedy", {"n": 8}, "Method greedy has no option 'n'"),
        ("best_of_n", {"n": 0}, "n must be an integer >= 1, got 0. Try n=8."),
        ("nabla", {"n": 2.5}, "n must be an integer >= 1, got 2.5. Try n=8."),
        ("nabla", {"n": True}, "n must be an integer >= 1, got True. Try n=8."),
        ("nabla", {"n": 10**400}, "n must be an integer >= 1, got a huge integer. Try n=8."),
        ("nabla", {"steps": "three"}, "steps must be an integer >= 0, got 'three'. Try steps=20."),
        ("nabla", {"lr": "nan"}, "lr must be a number > 0, got 'nan'. Try lr=0.01."),
        ("nabla", {"lr": 10**400}, "lr must be a number > 0, got a huge integer. Try lr=0.01."),
        ("nabla", {"lr": 0.01, "min_lr": 0.1}, "min_lr must be at most lr=0.01, got 0.1."),
        (
            "nabla",
            {"optimizer": "sgd", "logits_dtype": "bfloat16"},
            "logits_dtype must be float32 with optimizer=sgd, got 'bfloat16'.",
        ),
        (
            "nabla",
            {"relaxation_temperature": 0},
            "relaxation_temperature must be a number in [1e-09, 1e+09] or none, got 0. "
            "Try relaxation_temperature=none.",
        ),
        ("nabla", {"schedule": "linear"}, "schedule must be cosine or clipped_cosine, got 'lin"),
        ("nabla", {"anchor": "sample"}, "got 'sample'. Did you mean sampled?"),
        ("nabla", {"top_p": 0.0}, "top_p must be a number in (0, 1], got 0.0. Try top_p=1.0."),
        ("nabla", {"temperature": 0.0}, "temperature must be a number in [1e-09, 1e+09], got 0.0."),
        ("nabla", {"resample_temperature": -1}, "resample_temperature must be a number in [0,"),
        ("nabla", {"lam": "inf"}, "lam must be a number in [-1e+09, 1e+09], got 'inf'."),
        ("nabla", {"grad_cache": "perhaps"}, "grad_cache must be true or false, got 'perhaps'."),
        ("nabla", {"min_probability": 1.0}, "min_probability must be a number in [0, 1), got 1.0."),
        ("nabla", {"lookahead": 0}, "lookahead must be an integer >= 1 or auto, got 0."),
        ("nabla", {"lookahead": "many"}, "lookahead must be an integer >= 1 or auto, got 'many'."),
        ("beam", {"step": "regex"}, "step_regex must be a regular expression with step=regex"),
        ("beam", {"step": "regex", "step_regex": "("}, "step_regex must be a regular expression ("),
        *(
            (method, {"step": "regex", "step_regex": text}, said)
            for method in ("beam", "dvts", "particle_filtering", "rap", "tree_of_thought")
            for text, said in {
                "": "step_regex must be a regular expression with step=regex, and none otherwise",
                f"a{{{10**20}}}": "step_regex must be a regular expression (the repetition",
                "(" * 5000 + ")" * 5000: "step_regex must be a regular expression (maximum",
            }.items()
        ),
        ("best_of_n", {"evaluator": "majority", "stop_reward": 1.0}, "stop_reward must be nothing"),
    ],
)
def test_bad_options_are_refused_with_what_to_try(method, options, said):
    with pytest.raises(ConfigError) as error:
        configure(method, options)
    assert said in str(error.value)


SCALES = {
    "temperature", "resample_temperature", "relaxation_temperature", "weight_temperature",
    "reward_scale",
}  # fmt: skip
WEIGHTS = {
    "lam", "nll_weight", "process_weight", "beta", "exploration", "reward_weight",
    "likelihood_weight", "self_weight",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_what_multiplies_or_divides_stays_within_float32(method):
    """Beyond, logits were NaN and the answer empty, or gradients infinite and no step taken."""
    for name in option_names(method):
        if name in SCALES:
            for value in (5e-324, 1e-310, 1e-38, 1e10, 1e39, 1e308):
                with pytest.raises(ConfigError, match=f"^{name} must be "):
                    configure(method, {name: value})
            for value in (1e-9, 1e9):
                assert getattr(configure(method, {name: value}), name) == value
        elif name in WEIGHTS:
            for value in (1e10, 1e308):
                with pytest.raises(ConfigError, match=f"^{name} must be "):
                    configure(method, {name: value})
        else:
            assert not re.search("temperature|weight$|scale$|^beta$", name), name


def test_votes_by_rank_stay_floats():
    for n in (2, 8, 1000):
        most = 300 / max(1.0, math.log10(n))
        weights = configure(
            "weighted_best_of_n", {"weighting": "borda", "n": n, "borda_power": most}
        ).weights([float(i) for i in range(n)])
        assert math.isfinite(math.fsum(weights)) and weights[-1] == max(weights)
        with pytest.raises(ConfigError, match="borda_power must be at most"):
            configure("weighted_best_of_n", {"n": n, "borda_power": most + 1})


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="paper"):
        configure("nabla", {}, preset="papers")


def test_command_line_strings_are_read_as_the_option_s_type():
    config = configure(
        "nabla", {"n": "4", "lr": "1e-1", "grad_cache": "false", "stop_reward": "None"}
    )
    assert (config.n, config.lr, config.grad_cache, config.stop_reward) == (4, 0.1, False, None)


def test_presets_hold_the_values_of_the_paper_and_of_the_released_code():
    paper, released = (configure("nabla", {}, preset=name) for name in ("paper", "released"))
    assert (paper.n, paper.passes, paper.temperature, paper.top_p) == (8, 1, 0.5, 0.95)
    assert (paper.steps, paper.lr, paper.min_lr) == (20, 0.01, 0.001)
    assert (paper.update, paper.anchor) == ("all", "argmax")
    assert (paper.entropy_threshold, paper.gradient_threshold) == (0.25, 8.0)
    assert paper.gradient_norm == "logits" and paper.nll_weight == 1.0
    assert released.update == "first" and released.nll_weight == 1e-3
    assert released.uncertainty == "top_probability"
    assert released.top_probability_threshold == 0.97
    assert released.gradient_norm == "onehot" and released.drawing.temperature == 0.5
    assert configure("nabla", {"lr": 0.1}, preset="paper").lr == 0.1  # over the preset's


@pytest.mark.parametrize("method", ["tree_of_thought", "rap", "dvts", "particle_filtering"])
def test_presets_of_searches_hold_their_authors_values_and_the_papers_sampling(method):
    default, paper = configure(method, {}), configure(method, {}, preset="paper")
    changed = flatten(paper).items() - flatten(default).items()
    assert dict(changed) == {"temperature": 0.5, "top_p": 0.95}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_flat_options_round_trip_and_have_unique_names(method):
    config = configure(method, {})
    assert set(flatten(config)) == set(option_names(method))
    assert configure(method, flatten(config)) == config
    assert fingerprint(flatten(config)) == fingerprint(flatten(configure(method, {})))


def test_changing_one_option_changes_the_fingerprint_and_nothing_else():
    config = configure("nabla", {})
    other = change(config, lr=0.25)
    assert other.dto == DTO(**{**flatten(config.dto), "lr": 0.25}) and isinstance(other, Nabla)
    assert fingerprint(flatten(other)) != fingerprint(flatten(config))


@pytest.mark.parametrize(
    ("resample", "own", "tau"), [(0.5, None, 0.5), (0.0, None, 1.0), (0.5, 2.0, 2.0)]
)
def test_the_softmax_is_relaxed_at_the_draw_s_temperature_or_at_its_own(resample, own, tau):
    options = {"resample_temperature": resample, "relaxation_temperature": own}
    config = configure("nabla", options)
    assert (config.relaxation, config.drawing.temperature) == (tau, resample)


PAIR = tiny_pair(process=False)
ALIKE = "makes all samples alike"
# method, options, what is said, the method that it comes down to
IDLE = [
    ("nabla", {"n": 1}, "n=1 is the draft alone", "draft"),
    ("nabla", {"lam": 0, "nll_weight": 0, "n": 3}, "it is the twin", "twin"),
    ("best_of_n", {"n": 1}, "n=1 is one sample", "draft"),
    ("best_of_n", {"n": 4, "temperature": 0}, f"temperature=0 {ALIKE}", "greedy"),
    ("best_of_n", {"n": 4, "top_k": 1}, f"top_k=1 {ALIKE}", "greedy"),
    ("weighted_best_of_n", {"n": 1}, "n=1 is one sample", "draft"),
    ("weighted_best_of_n", {"temperature": 0}, f"temperature=0 {ALIKE}", "greedy"),
    ("self_consistency", {"n": 1}, "n=1 is one sample", "draft"),
    ("self_consistency", {"top_k": 1}, f"top_k=1 {ALIKE}", "greedy"),
    ("beam", {"beams": 1, "width": 1, "temperature": 0}, "beams=1 with width=1", "greedy"),
    ("beam", {"temperature": 0}, f"temperature=0 {ALIKE}", "greedy"),
    ("dvts", {"subtrees": 1, "width": 1, "temperature": 0}, "subtrees=1 with width=1", "greedy"),
    ("dvts", {"temperature": 0}, f"temperature=0 {ALIKE}", "greedy"),
    ("particle_filtering", {"particles": 1, "temperature": 0}, "particles=1", "greedy"),
    ("particle_filtering", {"top_k": 1}, f"top_k=1 {ALIKE}", "greedy"),
    ("tree_of_thought", {"proposals": 1, "temperature": 0}, "proposals=1", "greedy"),
    ("tree_of_thought", {"temperature": 0}, f"temperature=0 {ALIKE}", "greedy"),
    ("rap", {"branching": 1, "temperature": 0}, "branching=1", "greedy"),
    ("rap", {"top_k": 1}, f"top_k=1 {ALIKE}", "greedy"),
    ("tpo", {"samples": 1}, "samples=1 is one response", None),  # a tiny policy cannot be asked
    ("tpo", {"iterations": 0}, "it is best-of-N with n=samples", None),
    ("tpo", {"temperature": 0}, f"temperature=0 {ALIKE}", None),
]
LEFT = {"draft": ("best_of_n", {"n": 1}), "twin": ("nabla", {"n": 3, "steps": 0}),
        "greedy": ("greedy", {})}  # fmt: skip


@pytest.mark.parametrize(("method", "options", "said", "left"), IDLE)
def test_options_that_leave_nothing_of_a_method_are_said_and_leave_nothing(
    method, options, said, left, caplog
):
    assert said in (configure(method, options).idle or "")
    if left is None:
        return
    other, own = LEFT[left]
    if "step" in option_names(method):
        options = {**options, "step": "tokens", "step_tokens": 3}
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        for problem in ("ab", "cab"):
            ours = generate(PAIR, problem, method, max_new_tokens=8, **options)
            theirs = generate(PAIR, problem, other, max_new_tokens=8, **own)
            assert ours.token_ids == theirs.token_ids
    assert f"method={method}: " in caplog.text and said in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_defaults_presets_and_controls_are_not_idle(method):
    for preset in (None, *METHODS[method].presets):
        assert configure(method, {}, preset).idle is None
    proposed = {"generation": "propose", "temperature": 0, "step": "newline"}
    controls = {"nabla": [{"steps": 0}, {"lam": 0}, {"lam": -1}], "tpo": [{"samples": 2}],
                "tree_of_thought": [proposed]}  # fmt: skip
    for options in controls.get(method, []):
        assert configure(method, options).idle is None


def test_a_run_says_it_once_also_where_the_task_asks_for_it(caplog):
    reader = GenerationReader(read({"method": "best_of_n"}))
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        reader({"max_gen_toks": 3})
        assert not caplog.records
        reader({"top_k": 1})
        reader({"top_k": 1, "max_gen_toks": 3})
    (entry,) = caplog.records
    assert entry.getMessage() == (
        f"method=best_of_n: top_k=1 {ALIKE}, there is nothing to choose from."
    )


@pytest.mark.parametrize("temperature", [1e-9, 1e9])
def test_the_greatest_weights_at_the_least_temperature_leave_gradients_finite(temperature):
    options = {"lam": -1e9, "nll_weight": 1e9, "relaxation_temperature": temperature}
    options |= {"certify": False, "n": 3, "steps": 3, "anchor": "argmax", "entropy_threshold": 0}
    out = generate(load_pair(), "20,14,7=42?", max_new_tokens=16, **options)
    norms = [candidate.gradient_norm for candidate in out.trace.candidates]
    assert norms and all(map(math.isfinite, norms))


@pytest.mark.parametrize("method", ["best_of_n", "particle_filtering", "nabla"])
def test_the_least_temperature_writes_what_greedy_decoding_does(method):
    options = {"steps": 0, "resample_temperature": 1e-9} if method == "nabla" else {}
    out = generate(load_pair(), "20,14,7=42?", method, temperature=1e-9, **options)
    assert out.text == generate(load_pair(), "20,14,7=42?", "greedy").text
