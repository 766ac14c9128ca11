"""Equality of expressions by math-verify, with vetoes; imported only in the worker process.

math-verify (and its parser latex2sympy2-extended) accepts; exact arithmetic and evaluation at
points may veto, because a wrong answer that is accepted costs more than a right one that is not:
math-verify rounds decimals to six places, takes equations without real solutions for equal, and
compares products of letters without regard to case. The parser builds SymPy objects from a grammar;
no text is ever handed to `eval` or to SymPy's own string parser.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And
from math_verify.grader import should_treat_as_complex
from sympy.core.relational import Relational

from nabla_eval.grading.numbers import parse_number, tolerance

_DECIMAL = re.compile(r"(?<![0-9])[0-9]*\.[0-9]+|[0-9]+\.(?![0-9])")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?|(?<![A-Za-z\\])[A-Za-z])\^\\circ")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
_GROUP = re.compile(r"\{[^{}()]*\}|\([^{}()]*\)")
_SUM = re.compile(r"[+-]")
_UNEVALUATED = sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product, sympy.UnevaluatedExpr
# The parser's default takes R and r for one symbol, and R^2 - r^2 for 0.
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DIGITS = 40
_MAX_DIGITS = 1200
_NEGLIGIBLE = sympy.Float("1e-25")
_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))


def same_expression(gold: str, answer: str) -> bool:
    """Return whether two normalised expressions are equal; False where either cannot be parsed."""
    complex_numbers = any(
        should_treat_as_complex(text) or _IMAGINARY.search(text) for text in (gold, answer)
    )
    try:
        a, b = (_parse(text, complex_numbers=complex_numbers) for text in (gold, answer))
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The grammar reports what it does not know in many ways, none of which is an answer.
        return False
    ours, theirs = _relations(a), _relations(b)
    if ours or theirs:
        return len(ours) == len(theirs) and all(map(_same_relation, ours, theirs))
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        if a == b:
            return True
        if not a.free_symbols and not b.free_symbols:
            return _same_value(a, b, gold, answer)
        agreement = _agree_at_points(a, b)
        return agreement is not False and (agreement or _verified(a, b) or _zero(a - b))
    return _verified(a, b)


def _parse(text: str, *, complex_numbers: bool) -> Any:
    text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text.replace(";", ","))
    # Decimals become exact fractions, so that no comparison depends on binary rounding.
    text = _DECIMAL.sub(lambda match: _as_fraction(match.group()), text)
    if (cut := text.rfind(r"\bmod")) >= 0:
        sides = text[:cut], text[cut + len(r"\bmod") :]
        if any(_SUM.search(_without_groups(side.strip()), 1) for side in sides):
            raise ValueError("a sum beside \\bmod: which part it takes is not clear")
        return sympy.Mod(*(_parse(side, complex_numbers=complex_numbers) for side in sides))
    parsed = latex2sympy(
        text,
        is_real=not complex_numbers,
        conversion_config=_CONVERSION,
        normalization_config=None,
    )
    if isinstance(parsed, sympy.Expr):
        # An index of summation called i is not free.
        units = {symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"}
        parsed = parsed.subs(units) if complex_numbers and units else parsed
        parsed = parsed.doit() if parsed.has(*_UNEVALUATED) else parsed
    return parsed


def _without_groups(text: str) -> str:
    for _ in range(24):
        text, count = _GROUP.subn("", text)
        if not count:
            break
    return text


def _as_fraction(decimal: str) -> str:
    value = Fraction(decimal.rstrip(".") or "0")
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _verified(a: Any, b: Any) -> bool:
    # The parent's deadline bounds the time; math-verify's own alarm would replace it.
    return bool(math_verify.verify(a, b, timeout_seconds=None))


def _same_value(a: sympy.Expr, b: sympy.Expr, gold: str, answer: str) -> bool:
    """Two constants: exact, or within the rounding that a precisely written decimal allows."""
    if a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
        return False
    if a.is_infinite or b.is_infinite:
        return bool(a == b)
    difference = a - b
    size = difference.evalf(_DIGITS, maxn=_MAX_DIGITS)
    written = [number for number in map(parse_number, (gold, answer)) if number is not None]
    allowed = tolerance(*written) if len(written) == 1 else Fraction(0)
    if allowed:
        limit = sympy.Rational(allowed.numerator, allowed.denominator)
        return bool(size.is_number and size.is_real is not False and abs(size) <= limit)
    # Zero to `_MAX_DIGITS` digits is taken for zero; proofs of nested radicals may take for ever.
    return all(map(_vanishes, size.as_real_imag()))


def _vanishes(size: sympy.Expr) -> bool:
    """Return whether `evalf` could not tell the number from zero: its precision is then one bit."""
    return bool(size == 0 or getattr(size, "_prec", None) == 1)


def _zero(expression: sympy.Expr) -> bool:
    simplified = sympy.simplify(expression)
    return bool(simplified == 0 or simplified.is_zero)


def _agree_at_points(a: sympy.Expr, b: sympy.Expr) -> bool | None:
    """Return whether values agree at generic points of every sign; None where some is undefined.

    Two analytic expressions that agree to 40 digits at four generic points are the same; the signs
    tell \\sqrt{x^2} from x.
    """
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    defined = True
    for signs in _SIGNS:
        point = {
            symbol: signs[index % 2] * (sympy.Rational(7, 13) + index * sympy.Rational(11, 23))
            for index, symbol in enumerate(symbols)
        }
        difference = (a.subs(point) - b.subs(point)).evalf(_DIGITS)
        if not difference.is_number or not difference.is_finite:
            defined = False
        elif abs(difference) > _NEGLIGIBLE:
            return False
    return True if defined else None


def _relations(parsed: Any) -> list[Relational]:
    """Return the relation, or the links of a chain such as a < x < b, in ascending order."""
    links = getattr(parsed, "_unsorted_args", parsed.args) if isinstance(parsed, And) else [parsed]
    if not all(isinstance(link, Relational) for link in links):
        return []
    return sorted(map(_upwards, links), key=str) if len(links) > 1 else list(links)


def _upwards(relation: Relational) -> Relational:
    """Return the same relation with < or <= rather than > or >=."""
    return relation.reversed if relation.rel_op in {">", ">="} else relation


def _same_relation(gold: Relational, answer: Relational) -> bool:
    """Equal when one is a constant multiple of the other, positive for inequalities."""
    a, b = _upwards(gold), _upwards(answer)
    if a.rel_op != b.rel_op:
        return False
    left, right = a.lhs - a.rhs, b.lhs - b.rhs
    if _zero(left) or _zero(right) or left.free_symbols != right.free_symbols:
        return False
    ratio = sympy.simplify(left / right)
    if ratio.free_symbols or not ratio.is_finite or ratio.is_zero:
        return False
    return a.rel_op in {"==", "!="} or bool(ratio.is_positive)


def published_verdict(gold: str, response: str) -> tuple[bool, str | None]:
    """math-verify's own verdict, as most published figures are graded, and the answer it found.

    The gold answer is parsed out of a box, the response as a whole, both with math-verify's
    defaults. Only its deadlines are left to the caller, who kills the process.
    """
    target = math_verify.parse(response, parsing_timeout=None)
    if not target:
        return False, None
    answer = next((part for part in reversed(target) if isinstance(part, str)), str(target[0]))
    asked = math_verify.parse(gold, parsing_timeout=None)
    return bool(math_verify.verify(asked, target, timeout_seconds=None)), answer
