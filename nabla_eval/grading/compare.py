"""Comparison of two structured answers, in three values: equal, unequal, not decided here.

`same` walks the structures of gold and answer and asks an oracle about the expressions at the
leaves. In the caller's process the oracle knows nothing, and None means that computer algebra is
needed; in the worker the oracle is `algebra.same_expression`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from nabla_eval.grading.names import bare_value, function_of, labelled, letter, requested
from nabla_eval.grading.normalise import COMMANDS
from nabla_eval.grading.numbers import Number, exact_text, same_number
from nabla_eval.grading.structure import (
    Assignment,
    Collection,
    Leaf,
    Matrix,
    Node,
    Relation,
    interval_of,
    is_interval,
    parse,
    variable,
)
from nabla_eval.grading.units import compatible

Oracle = Callable[[str, str], bool | None]
Labelled = tuple[str, str]

MAX_LEAF = 800
"""Longer expressions are compared by spelling only."""

_SPACED_FACTOR = re.compile(r"(?<=[0-9]) (?=[A-Za-z])")
_ONLY_OR = re.compile(r"[)\]] ?or ?[(\[]")
_BASED = re.compile(r"(-?[0-9A-Za-z]+)_\{([0-9]+)\}\Z")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
# Notation that parsers read in one of several ways, or drop: a base, "1 2", "2\\frac{5}{3}" (sum or
# product), a prime, "3!!", "2^{3}^{2}", a repeating decimal inside an expression.
_AMBIGUOUS = re.compile(
    r"[0-9]_\{|[0-9.] [0-9.]|[0-9] ?\\frac\{[0-9]+\}\{[0-9]+\}\Z|'|!!|\^\{[^{}]*\} ?\^"
    r"|\.[0-9]*\\(?:overline|bar|dot)"
)
_ROW = re.compile(r"\[([^\[\]]+)\]")
_ROWS = re.compile(r"\[(?:\[[^\[\]]+\][,;]?)+\]")
_DIVISORS = re.compile(r"\\(?:gcd|lcm)(?![a-z])")
_LETTERS = re.compile(r"[A-Za-z]{3,}\Z")
_OPERATORS = """
    frac cdot times div binom choose infty cup cap setminus le ge ne in begin end lfloor rfloor
    lceil rceil circ ell emptyset sum prod int det mathbb overline bar
    max min bmod lim to
"""
_KNOWN = COMMANDS.union(_OPERATORS.split())
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-zA-Z]*\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")


def _unspaced(text: str) -> str:
    """``text`` without spaces between a number and letters: "3 m" is "3m"."""
    return _SPACED_FACTOR.sub("", text)


def same(gold: str, answer: str, oracle: Oracle) -> bool | None:
    """Return whether two normalised, non-empty answers agree; None where ``oracle`` could not say.

    A comma between digits may separate thousands or items: the answers agree when one of the two
    readings makes them agree, the same reading for both.
    """
    if _unspaced(gold) == _unspaced(answer):
        return True
    labels = labelled(gold), labelled(answer)
    if labels[0] or labels[1]:
        return _same_labelled(gold, answer, labels, oracle)
    gold, answer = bare_value(gold), bare_value(answer)
    verdict = _same(parse(gold), parse(answer), oracle)
    if verdict is True or not ("," in gold or "," in answer):
        return verdict
    ungrouped = parse(gold, grouped=False), parse(answer, grouped=False)
    return _any([verdict, _same(*ungrouped, oracle)])


def _same_labelled(
    gold: str, answer: str, labels: tuple[Labelled | None, Labelled | None], oracle: Oracle
) -> bool | None:
    """``(C) 7`` agrees with its letter and with its value; two of them must agree in both."""
    of_gold, of_answer = labels
    if of_gold and of_answer:
        return False if of_gold[0] != of_answer[0] else same(of_gold[1], of_answer[1], oracle)
    label, other = of_gold or of_answer or ("", ""), answer if of_gold else gold
    if (chosen := letter(other)) is not None:
        return chosen == label[0]
    # "a: b" may be no label at all.
    plain = _same(parse(gold), parse(answer), oracle)
    value = same(label[1], other, oracle) if of_gold else same(other, label[1], oracle)
    return _any([plain, value])


def _same(gold: Node, answer: Node, oracle: Oracle) -> bool | None:
    if gold.text == answer.text and type(gold) is type(answer):
        return not isinstance(gold, Leaf) or _same_leaf(gold, answer, oracle)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relation(gold, answer, oracle)
    if isinstance(gold, Assignment) and isinstance(answer, Assignment):
        return _same_assignment(gold, answer, oracle)
    if isinstance(gold, Assignment):
        return _same(named(gold, answer), answer, oracle)
    if isinstance(answer, Assignment):
        return _same(gold, named(answer, gold), oracle)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _same_leaf(gold, answer, oracle)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        return _same_collection(gold, answer, oracle)
    gold, answer = _as_matrix(gold, answer), _as_matrix(answer, gold)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if len(gold.rows) != len(answer.rows) or len(gold.rows[0]) != len(answer.rows[0]):
            return False
        cells = zip(_cells(gold), _cells(answer), strict=True)
        return _all(_same(a, b, oracle) for a, b in cells)
    return _unlike(gold, answer, oracle)


def _as_matrix(node: Node, other: Node) -> Node:
    """``[[1,2],[3,4]]`` as a matrix where the other side is one."""
    if not isinstance(other, Matrix) or not _ROWS.fullmatch(node.text):
        return node
    rows = [tuple(map(parse, re.split("[,;]", row))) for row in _ROW.findall(node.text)]
    return Matrix(node.text, tuple(rows)) if len({len(row) for row in rows}) == 1 else node


def _unlike(gold: Node, answer: Node, oracle: Oracle) -> bool | None:
    """Nodes of different kinds agree only where an expression evaluates to the other kind."""
    kinds = {type(gold), type(answer)}
    expression = any(isinstance(node, Leaf) and node.number is None for node in (gold, answer))
    unions = any(isinstance(node, Collection) and node.brackets == "u" for node in (gold, answer))
    if expression and (Matrix in kinds or unions):
        return _ask(gold.text, answer.text, oracle)
    return False


def _same_leaf(gold: Leaf, answer: Node, oracle: Oracle) -> bool | None:
    assert isinstance(answer, Leaf)
    if not gold.text or not answer.text or not compatible(gold.units, answer.units):
        return False
    if gold.number is not None and answer.number is not None:
        if same_number(gold.number, answer.number):
            return True
        # One percent sign missing: the value itself may have been written.
        if gold.units.percent != answer.units.percent:
            return same_number(_value(gold, gold.number), _value(answer, answer.number))
        return False
    if gold.text == answer.text:
        return True
    letters = letter(gold.text), letter(answer.text)
    if letters[0] and letters[1]:
        return letters[0] == letters[1]
    based = _BASED.match(gold.text), _BASED.match(answer.text)
    if based[0] or based[1]:
        return _same_based(gold, answer)
    # Letters alone may be a word, which no commutation of factors may turn into another.
    words = (_LETTERS.match(gold.text) and _LETTERS.match(answer.text)) or (
        "no" in {gold.text, answer.text}
    )
    texts = exact_text(gold.text, gold.number), exact_text(answer.text, answer.number)
    if words or not all(map(_algebraic, texts)):
        return _spelling(gold.text) == _spelling(answer.text)
    return oracle(*texts)


def _value(leaf: Leaf, number: Number) -> Number:
    if not leaf.units.percent:
        return number
    step = number.step / 100 if number.step is not None else None
    return Number(number.value / 100, step, number.digits)


def _same_based(gold: Leaf, answer: Leaf) -> bool:
    """Digits and base both count; only base ten may be left out."""
    written = []
    for leaf in (gold, answer):
        match = _BASED.match(leaf.text)
        digits, base = match.groups() if match else (leaf.text, "10")
        digits = digits.upper() if int(base) > 10 else digits
        written.append((digits.lstrip("0"), base))
    return written[0] == written[1]


def _ask(gold: str, answer: str, oracle: Oracle) -> bool | None:
    return oracle(gold, answer) if _algebraic(gold) and _algebraic(answer) else False


def _algebraic(text: str) -> bool:
    """Return whether to parse an expression: known commands, no words, nothing that parsers
    drop.
    """
    if len(text) > MAX_LEAF or not text.isascii() or text.count("{") != text.count("}"):
        return False
    if _AMBIGUOUS.search(text) or _depth(text) > 24:
        return False
    if _DIVISORS.search(text) and _VARIABLE.search(text):
        # SymPy's gcd of two letters is that of polynomials: 1.
        return False
    bare = _ENVIRONMENT.sub("", text)
    if not set(_COMMAND.findall(bare)) <= _KNOWN:
        return False
    return re.search(r"[A-Za-z]{4,}", _COMMAND.sub("", bare)) is None


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _spelling(text: str) -> str:
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])|[\"`.,;:?]+(?![0-9])", "", text)
    return text if "\\" in text else text.lower()


def _same_collection(gold: Collection, answer: Collection, oracle: Oracle) -> bool | None:
    kinds = {gold.brackets, answer.brackets}
    if kinds == {"u", ""} and all(is_interval(node) for node in gold.items + answer.items):
        # "(0,1) or (2,3)" is a union; with commas it may list points.
        listed = gold if gold.brackets == "" else answer
        return _match(gold.items, answer.items, oracle) if _ONLY_OR.search(listed.text) else False
    named = any(isinstance(node, Assignment) for node in gold.items + answer.items)
    # Without brackets "-2, 1" lists values, while (-2, 1) is a point or an interval; but a list
    # that names its values, "x = -2, y = 1", may describe the point.
    if len(kinds) == 2 and kinds != {"", "{}"} and not (named and kinds == {"", "()"}):
        return False
    if kinds == {"u"}:
        matched = _match(gold.items, answer.items, oracle)
        return matched if matched else _any([matched, _ask(gold.text, answer.text, oracle)])
    if len(gold.items) != len(answer.items):
        return False
    names = [[n.name for n in c.items if isinstance(n, Assignment)] for c in (gold, answer)]
    repeated = any(len(set(group)) < len(group) for group in names)
    # Values of several unknowns keep their order where one side leaves the names out.
    one_named = bool(names[0]) != bool(names[1])
    if gold.ordered or answer.ordered or repeated or one_named:
        ours, theirs = (c.items if repeated else in_order(c.items) for c in (gold, answer))
        pairs = list(zip(ours, theirs, strict=True))
        if kinds == {":"} and any(_padded(a) != _padded(b) for a, b in pairs[1:]):
            return False
        return _all(_same(a, b, oracle) for a, b in pairs)
    return _match(gold.items, answer.items, oracle)


def _padded(node: Node) -> bool:
    """Return whether a number is written as the minutes of a clock: 3:05 is not 3:5."""
    return re.match("0[0-9]", node.text) is not None


def _match(gold: Sequence[Node], answer: Sequence[Node], oracle: Oracle) -> bool | None:
    """Return whether the items can be paired off, in any order."""
    if len(gold) != len(answer):
        return False
    rest = list(answer)
    left = []
    for node in gold:
        twin = next((other for other in rest if other == node), None)
        if twin is None:
            left.append(node)
        else:
            rest.remove(twin)
    verdicts = [[_same(a, b, oracle) for b in rest] for a in left]
    if _pairs_off([[v is True for v in row] for row in verdicts]):
        return True
    return None if _pairs_off([[v is not False for v in row] for row in verdicts]) else False


def _pairs_off(allowed: list[list[bool]]) -> bool:
    """Return whether a perfect matching exists (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fits in enumerate(allowed[row]):
            if fits and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(allowed)))


def _same_assignment(gold: Assignment, answer: Assignment, oracle: Oracle) -> bool | None:
    function = function_of(gold.name), function_of(answer.name)
    same_name = gold.name == answer.name or (function[0] is not None and function[0] == function[1])
    # y = 2x + 3 is the usual other way to write f(x) = 2x + 3.
    graph = (function[0] and answer.name == "y") or (function[1] and gold.name == "y")
    if same_name or graph:
        return _same(gold.value, answer.value, oracle)
    symbolic = all(_VARIABLE.search(node.value.text) for node in (gold, answer))
    return _ask(gold.text, answer.text, oracle) if symbolic else False


def _same_relation(gold: Node, answer: Node, oracle: Oracle) -> bool | None:
    if isinstance(gold, (Relation, Assignment)) and isinstance(answer, (Relation, Assignment)):
        if isinstance(gold, Assignment) and isinstance(gold.value, Collection):
            return _same_relation(gold.value, answer, oracle)
        if isinstance(answer, Assignment) and isinstance(answer.value, Collection):
            return _same_relation(gold, answer.value, oracle)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            sets = interval_of(gold), interval_of(answer)
            if sets[0] and sets[1] and variable(gold) == variable(answer):
                return _same(sets[0], sets[1], oracle)
        return _ask(gold.text, answer.text, oracle)
    if isinstance(gold, Relation):
        interval = interval_of(gold)
        return _same(interval, answer, oracle) if interval is not None else False
    assert isinstance(answer, Relation)
    if isinstance(gold, Leaf):
        return _same_requested(gold, answer, oracle)
    interval = interval_of(answer) if isinstance(gold, Collection) else None
    return _same(gold, interval, oracle) if interval is not None else False


def _same_requested(gold: Leaf, answer: Relation, oracle: Oracle) -> bool | None:
    """``m+n = 204`` answers 204: the left side can only be the quantity that was asked for."""
    if gold.number is None or answer.signs != ("=",) or not requested(answer.sides[0]):
        return False
    value = parse(answer.sides[1])
    zero = isinstance(value, Leaf) and value.number is not None and not value.number.value
    return False if zero else _same(gold, value, oracle)


def _cells(matrix: Matrix) -> Iterable[Node]:
    return (cell for row in matrix.rows for cell in row)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided |= verdict is None
    return None if undecided else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    verdicts = list(verdicts)
    return True if True in verdicts else None if None in verdicts else False


def named(node: Assignment, other: Node) -> Node:
    """The value of ``node``: ``(x,y) = (2,3)`` as x = 2, y = 3 beside a list of such values."""
    names, value = node.name.strip("()").split(","), node.value
    if not (isinstance(other, Collection) and isinstance(value, Collection)):
        return value
    if len(names) != len(value.items) or not all(isinstance(n, Assignment) for n in other.items):
        return value
    items = [Assignment(f"{n}={v.text}", n, v) for n, v in zip(names, value.items, strict=True)]
    return Collection(value.text, "", tuple(items))


def in_order(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """``y = 3, x = 2`` as x = 2, y = 3, which is the point (2, 3); other lists as they stand."""
    assigned = [item for item in items if isinstance(item, Assignment)]
    if len(assigned) < len(items) or not {item.name for item in assigned} <= {"x", "y", "z"}:
        return items
    return tuple(sorted(assigned, key=lambda item: item.name))
