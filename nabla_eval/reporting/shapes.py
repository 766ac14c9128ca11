"""The JSON of `nabla-eval report --json`, as types: one object of tables, each a list of rows.

Numbers are unrounded, shares lie between 0 and 1, intervals are [low, high] at 95 %, and what the
data cannot say is null. The tests compare these types with what the rows hold.
"""

from __future__ import annotations

from typing import Any, TypedDict

Interval = list[float | None]  # [low, high]


class IndexJSON(TypedDict):
    """Rejection of the k-th candidates of all problems; `index` counts from 1."""

    index: int
    candidates: int
    rejected: int
    ties: int
    rate: float | None
    ci95: Interval


class RejectionJSON(TypedDict):
    """A run's rejection rate, or (in `controls`) that of i.i.d. draws, with its controls."""

    run: str
    n: int | None
    problems: int | None
    candidates: int | None
    rejected: int | None  # ties included
    ties: int | None
    rate: float | None
    ci95: Interval | None
    by_index: list[IndexJSON]
    method: str | None
    task: str
    baseline_h: float | None  # 1 - H_N/N
    baseline_challengers: float | None  # 1 - (H_N - 1)/(N - 1)
    baseline_run: str | None  # the best-of-N run whose drafts were measured
    baseline_measured: float | None
    baseline_measured_challengers: float | None
    twin: str | None
    twin_rate: float | None
    twin_ci95: Interval | None
    minus_twin: float | None
    minus_twin_ci95: Interval | None


class AccuracyJSON(TypedDict):
    """A run's accuracy and cost."""

    run: str
    task: str
    method: str
    n: int | None
    problems: int
    repeats: int
    seeds: list[int | None]
    accuracy: float
    se: float | None  # clustered by problem; what the interval implies where no problem differs
    ci95: Interval
    majority: float | None
    pass_at: dict[str, float]
    model_calls: float
    model_calls_ci95: Interval
    generated_tokens: float
    gradient_passes: float
    scorings: float
    prefix_scorings: float  # of single tokens after a prefix
    prefix_gradients: float  # of a prefix score at one position
    flops: float
    seconds: float | None
    correct_per_100_calls: float
    correct_per_100_calls_ci95: Interval


class DifferenceJSON(TypedDict):
    """a - b on the same problems, in accuracy or in a rejection rate."""

    measure: str
    a: str
    b: str
    problems: int
    difference: float | None
    ci95: Interval
    wins: int | None
    losses: int | None
    p: float | None
    p_holm: float | None
    task: str
    role: str


class FailureJSON(TypedDict):
    """Shares of answers that failed for a reason of their own."""

    run: str
    task: str
    answers: int
    truncated: float
    truncated_ci95: Interval
    no_answer: float | None
    grader_timeout: float | None
    grader_error: float | None


class CostJSON(TypedDict):
    """Means per answer of what the ledger counts."""

    run: str
    task: str
    method: str
    n: int | None
    problems: int
    model_calls: float
    model_calls_ci95: Interval
    generated_tokens: float
    gradient_passes: float
    scorings: float
    prefix_scorings: float  # of single tokens after a prefix
    prefix_gradients: float  # of a prefix score at one position
    prefill_tokens: float
    parallel_tokens: float
    flops: float
    flops_ci95: Interval
    latency: float
    seconds: float | None
    speculative: float | None
    correct_per_100_calls: float
    correct_per_100_calls_ci95: Interval


class PointJSON(TypedDict):
    """A run as a point of a scaling curve."""

    run: str
    task: str
    curve: str
    n: int | None
    model_calls: float
    model_calls_ci95: Interval
    accuracy: float
    ci95: Interval
    pareto: bool


class EqualCostJSON(TypedDict):
    """A run minus a rival at the run's own mean number of model calls."""

    run: str
    task: str
    model_calls: float
    rival: str
    cheaper: str
    dearer: str
    weight: float
    difference: float
    ci95: Interval
    p: float
    p_holm: float


class AblationJSON(TypedDict):
    """A changed run against the base and against its own twin."""

    run: str
    task: str
    base: str
    changed: dict[str, list[Any]]  # option -> [the base's value, this run's]
    accuracy: float
    difference: float
    ci95: Interval
    p: float
    p_holm: float
    calls: float
    calls_ci95: Interval
    rejection: float | None
    twin: str | None
    over_twin: float | None
    over_twin_ci95: Interval | None
    over_twin_p: float | None


class CalibrationJSON(TypedDict):
    """How well a reward model tells right answers from wrong ones."""

    run: str
    task: str
    reward: str
    answers_are: str
    problems: int
    answers: int
    right: float
    auc: float | None
    auc_ci95: Interval
    auc_within: float | None
    auc_within_ci95: Interval
    pairs: int


class GainJSON(TypedDict):
    """Gain in reward of candidates and of answers."""

    run: str
    task: str
    candidates: int
    gain: float | None
    gain_ci95: Interval
    gain_accepted: float | None
    gain_accepted_ci95: Interval
    positive: float | None
    final: float | None
    final_ci95: Interval


class IndexedJSON(TypedDict):
    """Rejection of the first, second, ... candidates of all problems, and how many there are."""

    run: str
    task: str
    rates: list[float | None]
    candidates: list[int]


class AcceptanceJSON(TypedDict):
    """Candidates accepted in one bin of a feature (position, entropy, gradient norm, sweep)."""

    run: str
    task: str
    feature: str
    low: float
    high: float
    candidates: int
    accepted: int
    rate: float | None
    ci95: Interval


class SavingJSON(TypedDict):
    """Model calls of a run over those of a control."""

    run: str
    task: str
    role: str
    control: str
    ratio: float | None
    ratio_ci95: Interval


class AccelerationJSON(TypedDict):
    """Shares of work that a run did not have to do (D.2), and that look-ahead threw away."""

    run: str
    task: str
    certified: float | None
    certified_ci95: Interval
    cached: float | None
    cached_ci95: Interval
    reused: float | None
    reused_ci95: Interval
    spared: float | None
    spared_ci95: Interval
    skipped: float | None
    skipped_ci95: Interval
    speculative: float | None
    speculative_ci95: Interval


class SelectionJSON(TypedDict):
    """What choosing by reward makes of the drafts."""

    run: str
    task: str
    reward: str
    n: int | None
    mean: float | None
    selected: float | None
    oracle: float | None
    recovered: float | None


class ReliabilityJSON(TypedDict):
    """Right answers among those with a reward in [low, high)."""

    run: str
    task: str
    low: float
    high: float
    answers: int
    right: float | None
    ci95: Interval


class ApartJSON(TypedDict):
    """A problem on which two runs score differently; the first answer of each."""

    problem: str
    task: str
    prompt: str
    score_a: float
    score_b: float
    answer_a: str
    answer_b: str


# Report -> table -> the type of its rows: every table of every report of runs.
SHAPES: dict[str, dict[str, type]] = {
    "accuracy": {"runs": AccuracyJSON, "differences": DifferenceJSON, "failures": FailureJSON},
    "rejection": {
        "runs": RejectionJSON,
        "controls": RejectionJSON,
        "differences": DifferenceJSON,
        "by_index": IndexedJSON,
        "acceptance": AcceptanceJSON,
    },
    "cost": {"runs": CostJSON, "savings": SavingJSON, "acceleration": AccelerationJSON},
    "scaling": {"points": PointJSON, "equal_cost": EqualCostJSON},
    "ablation": {"changes": AblationJSON},
    "reward": {
        "calibration": CalibrationJSON,
        "selection": SelectionJSON,
        "models": DifferenceJSON,
        "reliability": ReliabilityJSON,
        "gain": GainJSON,
    },
    "compare": {"differences": DifferenceJSON, "savings": SavingJSON, "apart": ApartJSON},
}
