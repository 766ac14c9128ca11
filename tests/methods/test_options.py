"""Options: validated on construction, flat on the command line, refused with a suggestion."""

from __future__ import annotations

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.methods.nabla_options import PRESETS, Nabla
from nabla_eval.methods.registry import METHODS, configure, option_names
from nabla_eval.options import DTO, change, fingerprint, flatten


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
            "relaxation_temperature must be a number > 0 or none, got 0. "
            "Try relaxation_temperature=none.",
        ),
        ("nabla", {"schedule": "linear"}, "schedule must be cosine or clipped_cosine, got 'lin"),
        ("nabla", {"anchor": "sample"}, "got 'sample'. Did you mean sampled?"),
        ("nabla", {"top_p": 0.0}, "top_p must be a number in (0, 1], got 0.0. Try top_p=1.0."),
        ("nabla", {"temperature": 0.0}, "temperature must be a number > 0, got 0.0."),
        ("nabla", {"resample_temperature": -1}, "resample_temperature must be a number >= 0 or"),
        ("nabla", {"lam": "inf"}, "lam must be a finite number, got 'inf'. Try lam=1.0."),
        ("nabla", {"grad_cache": "perhaps"}, "grad_cache must be true or false, got 'perhaps'."),
        ("nabla", {"min_probability": 1.0}, "min_probability must be a number in [0, 1), got 1.0."),
        ("nabla", {"lookahead": 0}, "lookahead must be an integer >= 1 or auto, got 0."),
        ("nabla", {"lookahead": "many"}, "lookahead must be an integer >= 1 or auto, got 'many'."),
    ],
)
def test_bad_options_are_refused_with_what_to_try(method, options, said):
    with pytest.raises(ConfigError) as error:
        configure(method, options)
    assert said in str(error.value)


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
    assert released.gradient_norm == "onehot"
    assert released.drawing.temperature == 0.5


def test_an_option_overrides_its_preset():
    assert configure("nabla", {"lr": 0.1}, preset="paper").lr == 0.1


@pytest.mark.parametrize("method", sorted(METHODS))
def test_flat_options_round_trip_and_have_unique_names(method):
    config = configure(method, {})
    assert set(flatten(config)) == set(option_names(method))
    assert configure(method, flatten(config)) == config
    assert fingerprint(flatten(config)) == fingerprint(flatten(configure(method, {})))


def test_changing_one_option_changes_the_fingerprint_and_nothing_else():
    config = configure("nabla", {})
    other = change(config, lr=0.25)
    assert other.dto == DTO(**{**flatten(config.dto), "lr": 0.25})
    assert fingerprint(flatten(other)) != fingerprint(flatten(config))
    assert isinstance(other, Nabla) and "released" in PRESETS


@pytest.mark.parametrize("method", ["tree_of_thought", "rap"])
def test_presets_of_searches_hold_their_authors_values_and_the_papers_sampling(method):
    changed = {
        name
        for name, value in flatten(configure(method, {}, preset="paper")).items()
        if value != flatten(configure(method, {}))[name]
    }
    assert changed <= {"temperature", "top_p"} and "temperature" in changed
    paper = configure(method, {}, preset="paper").sampling
    assert (paper.temperature, paper.top_p) == (0.5, 0.95)


def test_the_softmax_is_relaxed_at_the_draw_s_temperature_or_at_its_own():
    assert configure("nabla", {"resample_temperature": 0.5}).relaxation == 0.5
    assert configure("nabla", {"resample_temperature": 0.0}).relaxation == 1.0
    own = configure("nabla", {"resample_temperature": 0.5, "relaxation_temperature": 2.0})
    assert own.relaxation == 2.0 and own.drawing.temperature == 0.5
