"""Patterns of keys, and templates of what their wildcards matched.

The rules in `data/` are written in these two small forms; `docs/anatomy.md` describes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from megasim.errors import printable

_PATTERN_TOKEN = re.compile(
    r"(?P<any>\*\*)|(?P<some>\*)|\{(?P<name>[a-z]+)\}|(?P<choice>[(|)])|(?P<text>[^*{}()|]+)"
)
_TEMPLATE_TOKEN = re.compile(r"(?P<any>\*\*)|\{(?P<sum>[^{}]*)\}|(?P<text>[^*{}]+)")
_TERM = re.compile(r"([+-]?)(?:([0-9]{1,4})\*)?([a-z]|[0-9]{1,4})")


def split_key(key: str) -> list[str]:
    """Return the names in a key.

    >>> split_key("unet/conv_in.weight")
    ['unet', 'conv_in', 'weight']
    """
    return key.replace("/", ".").split(".")


def _required_names(pattern: str) -> tuple[frozenset[str], ...]:
    """Return what each name of a pattern may be, where it is a literal or a choice of them."""
    required = []
    for name in re.split(r"[./](?![^(]*\))", pattern):
        choices = name[1:-1].split("|") if re.fullmatch(r"\([^()]*\)", name) else [name]
        if all(re.fullmatch(r"[^*{}()|./]+", choice) for choice in choices):
            required.append(frozenset(choices))
    return tuple(required)


@dataclass(frozen=True)
class Pattern:
    """A key with wildcards.

    `{i}`, one small letter, is a number; `{name}`, several letters, a name without dot or slash;
    `*` any characters but dot and slash; `**` any characters; `(a|b)` either. `**.` at the start
    also matches nothing, and the first place it fits is taken.

    >>> Pattern.parse("vae/{side}.mid.block_{j}.**").match("vae/encoder.mid.block_1.conv1.bias")
    {'side': 'encoder', 'j': '1', 'rest': 'conv1.bias'}
    """

    text: str
    expression: str  # the same as a regular expression
    wildcards: frozenset[str]  # the names of {i} and {name}, and "rest" for a last **
    # What spares most regex matches: sets of names, of each of which a matching key has one; and
    # a text that stands in every matching key.
    required: tuple[frozenset[str], ...]
    needle: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern.

        Raises:
            ValueError: not a pattern; the message says why.
        """
        if not text:
            raise ValueError("the pattern is empty")
        start = 3 if text.startswith("**.") else 0
        pieces = ["(?:.*?[./]|)"] if start else []
        names: list[str] = []
        literals = [""]
        depth, position = 0, start
        while position < len(text):
            token = _PATTERN_TOKEN.match(text, position)
            if token is None:
                raise ValueError(f"unexpected {printable(text[position])!r}")
            position = token.end()
            if token["any"]:
                pieces.append("(?P<rest>.*)" if position == len(text) and not depth else ".*?")
            elif token["some"]:
                pieces.append("[^./]*")
            elif name := token["name"]:
                if name in names or name == "rest":
                    raise ValueError(f"{{{name}}} stands twice")
                names.append(name)
                # Nine digits: no block has more, and a stranger's key may hold a million.
                pieces.append(f"(?P<{name}>{'[0-9]{1,9}' if len(name) == 1 else '[^./]+'})")
            elif choice := token["choice"]:
                depth += {"(": 1, "|": 0, ")": -1}[choice]
                if depth not in ((0, 1) if choice == ")" else (1,)):
                    raise ValueError("parentheses do not match, or are nested")
                pieces.append("(?:" if choice == "(" else choice)
            else:
                pieces.append(re.escape(token["text"]))
                if not depth:
                    literals.append(token["text"])
        if depth:
            raise ValueError("a parenthesis is not closed")
        if text.endswith("**"):
            names.append("rest")
        return cls(
            text=text,
            expression="".join(pieces),
            wildcards=frozenset(names),
            required=_required_names(text),
            needle=max(literals, key=len),
        )

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The expression, compiled once a key may fit: most patterns are of other families."""
        return re.compile(self.expression, re.DOTALL)

    def match(self, key: str) -> dict[str, str] | None:
        """Return what the wildcards matched, or None when the key does not fit."""
        if self.needle not in key:
            return None
        found = self.regex.fullmatch(key)
        return None if found is None else found.groupdict()


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sum such as 1+3*i+j, printed with at least `width` digits."""

    terms: tuple[tuple[int, str], ...]  # factor, and the name of a number ("" is 1)
    width: int

    def fill(self, found: Mapping[str, str]) -> str | None:
        total = sum(factor * (int(found[name]) if name else 1) for factor, name in self.terms)
        return None if total < 0 else f"{total:0{self.width}}"


@dataclass(frozen=True, slots=True)
class Template:
    """A text to be filled with what a pattern matched.

    `{i}` is a number of the pattern, and may be a sum `{1+3*i+j}` and be padded `{i:02}`;
    `{name}` is a name of it; `**` is what its last `**` matched.

    >>> pattern = Pattern.parse("down.{i}.resnets.{j}.**")
    >>> template = Template.parse("input_blocks.{1+3*i+j}.0.**", pattern)
    >>> template.fill({"i": "2", "j": "1", "rest": "bias"})
    'input_blocks.8.0.bias'
    """

    pieces: tuple[str | tuple[str] | _Sum, ...]  # a literal, the name of a text, a sum
    literal: str | None = None  # the text, where there is nothing to fill in

    @classmethod
    def parse(cls, text: str, pattern: Pattern) -> Template:
        """Compile a template for a pattern; "-" is the empty text.

        Raises:
            ValueError: not a template, or of names that the pattern lacks.
        """
        pieces: list[str | tuple[str] | _Sum] = []
        used: list[str] = []
        position = 0
        while position < len(text) and text != "-":
            token = _TEMPLATE_TOKEN.match(text, position)
            if token is None:
                raise ValueError(f"unexpected {printable(text[position])!r}")
            position = token.end()
            if token["any"]:
                used.append("rest")
                pieces.append(("rest",))
            elif token["sum"] is not None:
                expression, _, pad = token["sum"].partition(":0")
                if len(expression) > 1 and expression in pattern.wildcards:
                    used.append(expression)
                    pieces.append((expression,))
                    continue
                terms = _sum_terms(expression)
                if not terms or (pad and not re.fullmatch("[1-9]", pad)):
                    raise ValueError(f"{{{printable(token['sum'])}}} is neither a name nor a sum")
                used.extend(name for _, name in terms if name)
                pieces.append(_Sum(terms, int(pad or 1)))
            else:
                pieces.append(token["text"])
        for name in used:
            if name not in pattern.wildcards:
                wildcard = "**" if name == "rest" else f"{{{name}}}"
                raise ValueError(f"{wildcard} does not stand in the pattern {pattern.text!r}")
        literals = [piece for piece in pieces if isinstance(piece, str)]
        constant = len(literals) == len(pieces)
        return cls(tuple(pieces), "".join(literals) if constant else None)

    def fill(self, found: Mapping[str, str]) -> str | None:
        """Return the filled text; None when a number in it would be negative."""
        filled = ""
        for piece in self.pieces:
            if isinstance(piece, str):
                filled += piece
            elif isinstance(piece, tuple):
                filled += found[piece[0]]
            elif (number := piece.fill(found)) is not None:
                filled += number
            else:
                return None
        return filled


def _sum_terms(expression: str) -> tuple[tuple[int, str], ...]:
    """Read a sum such as 1+3*i-j; empty when it is none."""
    terms: list[tuple[int, str]] = []
    position = 0
    while position < len(expression):
        term = _TERM.match(expression, position)
        if term is None or (terms and not term[1]):
            return ()
        position = term.end()
        factor = (-1 if term[1] == "-" else 1) * int(term[2] or 1)
        terms.append((factor * int(term[3]), "") if term[3].isdigit() else (factor, term[3]))
    return tuple(terms)
