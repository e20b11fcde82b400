"""The words that SQL speaks are those of the enums."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from megasim.resources import resource_path
from megasim.words import (
    TIERS,
    EdgeKind,
    Metric,
    ModelSource,
    Nature,
    PartRole,
    RelationKind,
    Source,
    Status,
    Verdict,
    weakest,
)

SQL = sorted(resource_path("sql", "queries.sql").parent.rglob("*.sql"))
# A column, and the words that it may be compared with or made of.
COLUMNS: dict[str, tuple[type[StrEnum], ...]] = {
    "status": (Status,),
    "source": (Source, ModelSource),
    "nature": (Nature,),
    "part_role": (PartRole,),
}
LITERAL = re.compile(r"'([^']*)'")


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def words_of(column: str, text: str) -> set[str]:
    """Return the literals that a column is compared with, or that a `case` gives it."""
    compared = re.findall(rf"\b{column}\s*(?:=|<>|in)\s*(\([^()]*\)|'[^']*')", text)
    named = re.findall(rf"('[^']*')\s+as\s+{column}\b", text)
    # the innermost case that ends as this column, and what it gives
    cases = re.findall(rf"\bcase\b((?:(?!\bcase\b|\bend\b).)*)\bend\s+as\s+{column}\b", text, re.S)
    given = [word for case in cases for word in re.findall(r"\b(?:then|else)\s+('[^']*')", case)]
    return {word for part in (*compared, *named, *given) for word in LITERAL.findall(part)}


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.name)
@pytest.mark.parametrize("column", COLUMNS)
def test_sql_compares_columns_with_words_that_exist(path: Path, column: str) -> None:
    known = {str(word) for words in COLUMNS[column] for word in words}
    assert words_of(column, without_comments(path.read_text(encoding="utf-8"))) <= known


def test_the_status_of_a_layer_may_be_any_word_of_its_enum() -> None:
    views = without_comments((SQL[0].parents[0] / "views.sql").read_text(encoding="utf-8"))
    assert words_of("status", views) == {str(status) for status in Status}


def test_the_reader_of_sql_finds_a_word_that_does_not_exist() -> None:
    assert words_of("status", "where status in ('same', 'changed')") == {"same", "changed"}
    assert words_of("status", "case when a then 'x' else 'y' end as status") == {"x", "y"}


def test_component_distances_counts_every_status() -> None:
    columns = (SQL[0].parents[0] / "schema.sql").read_text(encoding="utf-8")
    (table,) = re.findall(r"create table component_distance \((.*?)\n\);", columns, re.S)
    assert {str(status) for status in Status} <= set(re.findall(r"^\s+(\w+)", table, re.M))


@pytest.mark.parametrize("words", [EdgeKind, Metric, PartRole, RelationKind, Verdict])
def test_words_are_found_by_their_strings(words: type[StrEnum]) -> None:
    assert [words(str(word)) for word in words] == list(words)


def test_a_tier_is_a_status_and_a_verdict() -> None:
    assert [Verdict(status) for status in TIERS] == [v for v in Verdict if v.is_tier]
    assert all(v.is_equal for v in Verdict if v.is_tier)
    assert weakest([Verdict.CHANGED, Verdict.IDENTICAL]) is Verdict.CHANGED
