"""Does the reward know what is right? AUC over all answers, and within each question.

A reward model may only have learned how hard a question is: then the pooled AUC is high, the
within-question AUC is 0.5, and best-of-N gains nothing. Answers here are rows of `problem`,
`answer` (which a draft was made for), `reward` and `right`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from nabla_eval.analysis.candidates import Bin, bin_edges, in_bins
from nabla_eval.analysis.frames import totals
from nabla_eval.analysis.intervals import Estimate, effective_wilson, share, unknown
from nabla_eval.analysis.runs import Run
from nabla_eval.thought import answered
from nabla_eval.traces.index import whole

if TYPE_CHECKING:
    from pandas import DataFrame

# (lm-eval's doc and target, response) -> is it right?
Grade: TypeAlias = Callable[[Mapping[str, Any], str], bool]


def final_answers(run: Run) -> DataFrame:
    """Return every answer with a known reward; none where scores of answers are not known."""
    known = run.answers[["problem", "answer", "reward"]].assign(right=run.answers["score"] >= 0.5)
    return known[known["reward"].notna() & (not run.answers["score"].isna().any())]


def drafted_answers(run: Run, grade: Grade) -> DataFrame:
    """Return every scored draft, graded now, each text once."""
    from pandas import DataFrame

    known: dict[tuple[str, str], bool] = {}
    rows = []
    columns = (run.answers[name] for name in ("problem", "answer", "prompt", "record"))
    for problem, answer, prompt, record in zip(*columns, strict=True):
        for draft in whole(record)["drafts"]:
            if draft["reward"] is None:
                continue
            text = (problem, draft["text"])
            if text not in known:
                known[text] = grade(run.docs[problem], answered(prompt, draft["text"]))
            rows.append((problem, answer, draft["reward"], known[text]))
    return DataFrame(rows, columns=["problem", "answer", "reward", "right"])


@dataclass(frozen=True)
class Calibration:
    """How well rewards tell right answers from wrong ones; chance is 0.5 for both AUCs."""

    problems: int
    answers: int
    right: int
    pooled: Estimate  # over all pairs of a right and a wrong answer
    within: Estimate  # over the pairs that answer the same question
    pairs: int  # of the latter


def calibration(answers: DataFrame) -> Calibration:
    """Return both AUCs with intervals over problems; equal rewards count half.

    An AUC is the share of pairs in which the right answer has the higher reward, so its interval is
    a proportion's, which an AUC of 1 on few problems needs. The effective sample size is at most
    the number of pairs. At the least it is, within questions, the number of questions with pairs
    (Kish's, which weighs them); pooled, the number of problems that have the rarer verdict.
    """
    right = answers["right"].to_numpy(bool)
    ranks = answers.groupby("problem")["reward"].rank().to_numpy()
    good, bad, ranked = totals(answers, right, ~right, ranks * right)
    pairs = good * bad
    return Calibration(
        problems=len(good),
        answers=len(answers),
        right=int(right.sum()),
        pooled=_pooled_auc(answers),
        # Mann and Whitney's U: ranks of the right answers, less those that they have among them.
        within=share(ranked - good * (good + 1) / 2, pairs),
        pairs=int(pairs.sum()),
    )


def _pooled_auc(answers: DataFrame) -> Estimate:
    """Return the AUC over all pairs, its standard error clustered (Obuchowski 1997)."""
    right = answers["right"].to_numpy(bool)
    good, bad = totals(answers, right, ~right)
    m, n = good.sum(), bad.sum()
    if not m or not n:
        return unknown(len(good))
    # How many answers of the other verdict each answer is ahead of; equal rewards count half.
    ahead = (answers["reward"].rank() - answers["reward"].groupby(right).rank()).to_numpy()
    value = float(ahead[right].sum() / (m * n))
    won, lost = totals(answers, ahead * right, (m - ahead) * ~right)
    errors = (won / n - value * good) / m + (lost / m - value * bad) / n
    least = float(min((good > 0).sum(), (bad > 0).sum()))
    return effective_wilson(value, errors, least, float(m * n))


def auc(rewards: Sequence[float], right: Sequence[bool]) -> float:
    """Return the probability that a right answer has the higher reward; NaN without both kinds."""
    from pandas import DataFrame

    answers = DataFrame({"problem": "", "reward": rewards, "right": right})
    return calibration(answers).within.value


def reliability(answers: DataFrame, bins: int = 8) -> list[Bin]:
    """Return the share of right answers by reward, in bins of about equally many answers."""
    edges = bin_edges([answers], "reward", bins)
    return in_bins(answers, "reward", answers["right"], edges)
