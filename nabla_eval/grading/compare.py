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
    Collection,
    Leaf,
    Node,
    Relation,
    depths,
    is_interval,
    matrix_of,
    name_of,
    parse,
)
from nabla_eval.grading.units import compatible, table

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
_PADDED = re.compile("0[0-9]")
_DIVISORS = re.compile(r"\\(?:gcd|lcm)(?![a-z])")
_LETTERS = re.compile(r"[A-Za-z]{3,}\Z")
_KNOWN = COMMANDS.union(table("operators"))
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-zA-Z]*\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")


def same(gold: str, answer: str, oracle: Oracle) -> bool | None:
    """Return whether two normalised, non-empty answers agree; None where ``oracle`` could not say.

    A comma between digits may separate thousands or items: the answers agree when one of the two
    readings makes them agree, the same reading for both.
    """
    if _SPACED_FACTOR.sub("", gold) == _SPACED_FACTOR.sub("", answer):  # "3 m" is "3m"
        return True
    of_gold, of_answer = labelled(gold), labelled(answer)
    if of_gold or of_answer:
        return _same_labelled(gold, answer, of_gold, of_answer, oracle)
    gold, answer = bare_value(gold), bare_value(answer)
    verdict = _same(parse(gold), parse(answer), oracle)
    if verdict is True or not ("," in gold or "," in answer):
        return verdict
    ungrouped = parse(gold, grouped=False), parse(answer, grouped=False)
    return _any([verdict, _same(*ungrouped, oracle)])


def _same_labelled(
    gold: str, answer: str, of_gold: Labelled | None, of_answer: Labelled | None, oracle: Oracle
) -> bool | None:
    """``(C) 7`` agrees with its letter and with its value; two of them must agree in both."""
    if of_gold and of_answer:
        return of_gold[0] == of_answer[0] and same(of_gold[1], of_answer[1], oracle)
    label, other = of_gold or of_answer or ("", ""), answer if of_gold else gold
    if (chosen := letter(other)) is not None:
        return chosen == label[0]
    # "a: b" may be no label at all.
    plain = _same(parse(gold), parse(answer), oracle)
    value = same(label[1], other, oracle) if of_gold else same(other, label[1], oracle)
    return _any([plain, value])


def _same(gold: Node, answer: Node, oracle: Oracle) -> bool | None:
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _same_leaf(gold, answer, oracle)
    if gold.text == answer.text and type(gold) is type(answer):
        return True
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relation(gold, answer, oracle)
    gold, answer = _as_matrix(gold, answer), _as_matrix(answer, gold)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        return _same_collection(gold, answer, oracle)
    # Nodes of different kinds agree only where an expression evaluates to the other kind.
    leaf, other = (gold, answer) if isinstance(gold, Leaf) else (answer, gold)
    evaluated = isinstance(other, Collection) and other.brackets in {"u", "matrix"}
    expression = isinstance(leaf, Leaf) and leaf.number is None
    return _ask(gold.text, answer.text, oracle) if evaluated and expression else False


def _as_matrix(node: Node, other: Node) -> Node:
    """Return ``[[1,2],[3,4]]`` as a matrix where the other side is one."""
    matrix = isinstance(other, Collection) and other.brackets == "matrix"
    if not matrix or not _ROWS.fullmatch(node.text):
        return node
    rows = [[parse(cell) for cell in re.split("[,;]", row)] for row in _ROW.findall(node.text)]
    return matrix_of(node.text, rows) if len({len(row) for row in rows}) == 1 else node


def _same_leaf(gold: Leaf, answer: Leaf, oracle: Oracle) -> bool | None:
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
    """Return whether to parse an expression: no unknown command, word or ambiguous notation."""
    if len(text) > MAX_LEAF or not text.isascii() or text.count("{") != text.count("}"):
        return False
    if _AMBIGUOUS.search(text) or max(depths(text), default=0) > 24:
        return False
    if _DIVISORS.search(text) and _VARIABLE.search(text):
        # SymPy's gcd of two letters is that of polynomials: 1.
        return False
    bare = _ENVIRONMENT.sub("", text)
    if not set(_COMMAND.findall(bare)) <= _KNOWN:
        return False
    return re.search(r"[A-Za-z]{4,}", _COMMAND.sub("", bare)) is None


def _spelling(text: str) -> str:
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])|[\"`.,;:?]+(?![0-9])", "", text)
    return text if "\\" in text else text.lower()


def _same_collection(gold: Collection, answer: Collection, oracle: Oracle) -> bool | None:
    kinds = {gold.brackets, answer.brackets}
    if kinds == {"u", ""} and all(is_interval(node) for node in gold.items + answer.items):
        # "(0,1) or (2,3)" is a union; with commas it may list points.
        listed = gold if gold.brackets == "" else answer
        return _match(gold.items, answer.items, oracle) if _ONLY_OR.search(listed.text) else False
    names = [[name for node in side.items if (name := name_of(node))] for side in (gold, answer)]
    # Without brackets "-2, 1" lists values, while (-2, 1) is a point or an interval; but a list
    # that names its values, "x = -2, y = 1", may describe the point.
    if len(kinds) == 2 and kinds != {"", "{}"} and not (any(names) and kinds == {"", "()"}):
        return False
    if kinds == {"u"}:
        matched = _match(gold.items, answer.items, oracle)
        return matched if matched else _any([matched, _ask(gold.text, answer.text, oracle)])
    if len(gold.items) != len(answer.items):
        return False
    repeated = any(len(set(group)) < len(group) for group in names)
    # Values of several unknowns keep their order where one side leaves the names out.
    one_named = bool(names[0]) != bool(names[1])
    if gold.ordered or answer.ordered or repeated or one_named:
        ours, theirs = (c.items if repeated else _in_order(c.items) for c in (gold, answer))
        pairs = list(zip(ours, theirs, strict=True))
        # Minutes of a clock have two digits: 3:05 is not 3:5.
        if kinds == {":"} and any(
            bool(_PADDED.match(a.text)) != bool(_PADDED.match(b.text)) for a, b in pairs[1:]
        ):
            return False
        return _all(_same(a, b, oracle) for a, b in pairs)
    return _match(gold.items, answer.items, oracle)


def _match(gold: Sequence[Node], answer: Sequence[Node], oracle: Oracle) -> bool | None:
    """Return whether the items can be paired off, in any order."""
    if len(gold) != len(answer):
        return False
    rest, left = list(answer), []
    for node in gold:
        if node in rest:
            rest.remove(node)
        else:
            left.append(node)
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


def _same_relation(gold: Node, answer: Node, oracle: Oracle) -> bool | None:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _same_relations(gold, answer, oracle)
    if isinstance(gold, Relation):
        value = _named(gold, answer)
        return False if value is None else _same(value, answer, oracle)
    assert isinstance(answer, Relation)
    if answer.solution is None and isinstance(gold, Leaf):
        return _same_requested(gold, answer, oracle)
    value = _named(answer, gold)
    return False if value is None else _same(gold, value, oracle)


def _same_relations(gold: Relation, answer: Relation, oracle: Oracle) -> bool | None:
    if gold.solution is None or answer.solution is None:
        # A set that is named is compared with sets alone.
        sets = any(
            isinstance(node.solution, Collection) and node.assigns for node in (gold, answer)
        )
        return False if sets else _ask(gold.text, answer.text, oracle)
    functions = function_of(gold.unknown), function_of(answer.unknown)
    same_name = gold.unknown == answer.unknown or (functions[0] and functions[0] == functions[1])
    # y = 2x + 3 is the usual other way to write f(x) = 2x + 3.
    graph = (functions[0] and answer.unknown == "y") or (functions[1] and gold.unknown == "y")
    if same_name or graph or gold.assigns != answer.assigns:
        return _same(gold.solution, answer.solution, oracle)
    symbolic = all(_VARIABLE.search(node.text) for node in (gold.solution, answer.solution))
    return _ask(gold.text, answer.text, oracle) if symbolic else False


def _same_requested(gold: Leaf, answer: Relation, oracle: Oracle) -> bool | None:
    """``m+n = 204`` answers 204: the left side can only be the quantity that was asked for."""
    if gold.number is None or answer.signs != ("=",) or not requested(answer.sides[0]):
        return False
    value = parse(answer.sides[1])
    zero = isinstance(value, Leaf) and value.number is not None and not value.number.value
    return not zero and _same(gold, value, oracle)


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


def _named(relation: Relation, other: Node) -> Node | None:
    """Return the solution; ``(x,y) = (2,3)`` as x = 2, y = 3 beside a list of such values."""
    names, value = relation.unknown.strip("()").split(","), relation.solution
    if not (isinstance(other, Collection) and isinstance(value, Collection)):
        return value
    if len(names) != len(value.items) or None in map(name_of, other.items):
        return value
    items = [
        Relation(f"{name}={item.text}", (name, item.text), ("=",), name, item)
        for name, item in zip(names, value.items, strict=True)
    ]
    return Collection(value.text, "", tuple(items))


def _in_order(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return ``y = 3, x = 2`` as x = 2, y = 3, the point (2, 3); other lists as they stand."""
    if not {name_of(item) for item in items} <= {"x", "y", "z"}:
        return items
    return tuple(sorted(items, key=lambda item: name_of(item) or ""))
