"""Spellings of units, and the powers of base units that each stands for.

Units are names here, not sizes: metre and centimetre differ, and nothing is converted.
"""

from __future__ import annotations

import re

Powers = frozenset[tuple[str, int]]
"""Base units with their powers: metre per second is {("metre", 1), ("second", -1)}."""

_BASES = {
    "kilometre": "km kilometer kilometre kilómetro kilomètre километр км 千米 公里 킬로미터",
    "metre": "m meter metre metro mètre метр метров м 米 メートル 미터",
    "decimetre": "dm decimeter decimetre 分米",
    "centimetre": "cm centimeter centimetre centímetro centimètre zentimeter см 厘米 公分 "
    "センチ 센티미터",
    "millimetre": "mm millimeter millimetre мм 毫米", "micrometre": "μm micrometer micrometre",
    "nanometre": "nm nanometer nanometre", "inch": "in inch inches", "foot": "ft foot feet",
    "yard": "yd yard", "mile": "mi mile", "kilogram": "kg kilogram kilogramme кг 千克 公斤",
    "gram": "g gram gramme gramo г 克", "milligram": "mg milligram 毫克",
    "pound": "lb lbs pound GBP",
    "ounce": "oz ounce", "tonne": "t ton tonne т 吨", "litre": "l L liter litre litro л 升",
    "millilitre": "ml mL milliliter millilitre мл 毫升", "gallon": "gal gallon",
    "second": "s sec second segundo seconde sekunde сек 秒",
    "millisecond": "ms millisecond", "minute": "min minute minuto мин 分钟 分鐘",
    "hour": "h hr hour hora heure stunde stunden час часа часов ч 小时 小時 時間 시간",
    "day": "day día jour tag tage дней дня 天 日", "week": "week 周 星期", "month": "month 个月 月",
    "year": "yr year año ans jahr jahre год года лет 年 岁 歲 歳 살",
    "degree": "degree deg grad градус градусов 度 도", "radian": "rad radian", "unit": "unit",
    "dollar": "dollar USD usd buck 美元", "cent": "cent ¢", "euro": "euro EUR eur",
    "yuan": "yuan RMB CNY 元 块 人民币", "yen": "yen JPY 円",
    "won": "won KRW 원", "rupee": "rupee Rs INR", "ruble": "ruble рублей рубля рубль руб",
    "newton": "N newton", "joule": "J joule", "kilojoule": "kJ kilojoule", "watt": "W watt",
    "kilowatt": "kW kilowatt", "volt": "V volt", "ampere": "A amp ampere", "ohm": "Ω ohm",
    "kelvin": "K kelvin", "coulomb": "C coulomb", "tesla": "T tesla", "farad": "F farad",
    "hertz": "Hz hertz", "kilohertz": "kHz", "megahertz": "MHz", "pascal": "Pa pascal",
    "kilopascal": "kPa", "mole": "mol mole", "electronvolt": "eV", "calorie": "cal calorie",
    "celsius": "celsius", "fahrenheit": "fahrenheit", "hectare": "ha hectare", "acre": "acre",
}  # fmt: skip
_COMPOUND: dict[str, Powers] = {
    "mph": frozenset({("mile", 1), ("hour", -1)}),
    "kph": frozenset({("kilometre", 1), ("hour", -1)}),
    "kmh": frozenset({("kilometre", 1), ("hour", -1)}),
    **{
        prefix + name: frozenset({(unit, power)})
        for prefix, power in (("平方", 2), ("立方", 3))
        for name, unit in (
            ("米", "metre"), ("厘米", "centimetre"), ("分米", "decimetre"), ("毫米", "millimetre"),
            ("千米", "kilometre"), ("公里", "kilometre"),
        )
    },
}  # fmt: skip
_SPELLINGS = {spelling: unit for unit, words in _BASES.items() for spelling in words.split()}
SPELLINGS = frozenset(_SPELLINGS).union(_COMPOUND)
NAMES = frozenset(_BASES)

SYMBOLS = frozenset(spelling for spelling in _SPELLINGS if len(spelling) == 1)
"""Units of one letter: a unit where they are set upright, else only after a number and a space."""

PLAIN_SYMBOLS = frozenset("mgshLlNJWVK")
"""One-letter units that also count in plain text; the rest is more often a name or a choice."""

_ITEM = r"[^\W\d_]+\.?(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
_JOINT = r"\s*(?:/|\\cdot(?![a-z])|\\times(?![a-z])|·|\*|\\,|~|\s)\s*"
_EXPRESSION = re.compile(rf"(.*[0-9)}}\]])?\s*({_ITEM}(?:{_JOINT}{_ITEM})*)\s*", re.DOTALL)
_WORD = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]+")


def powers(word: str) -> Powers | None:
    """Base units of one spelling ("km", "Miles", "mph"); None for a word that is no unit."""
    singular = word.lower().removesuffix("s") if len(word) > 2 and word != "has" else word
    for spelling in (word, word.lower(), singular):
        if spelling in _SPELLINGS:
            return frozenset({(_SPELLINGS[spelling], 1)})
        if spelling in _COMPOUND:
            return _COMPOUND[spelling]
    return None


def written_out(upright: str) -> str | None:
    """The text of ``\\text{...}`` with unit symbols of one letter as words.

    None where the text is no unit, or a number and a unit, and so may mean anything else.
    """
    if len(upright) > 60 or not (match := _EXPRESSION.fullmatch(upright.strip())):
        return None
    number, unit = match.group(1) or "", match.group(2)
    if any(powers(word) is None for word in _WORD.findall(unit)):
        return None
    spelt = _WORD.sub(lambda m: _SPELLINGS[m[0]] if m[0] in SYMBOLS else m[0], unit)
    return f"{number} {spelt}"
