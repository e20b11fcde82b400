"""Files that are shards of one model, as their names say."""

from __future__ import annotations

import re
from typing import NamedTuple

_SHARD = re.compile(r"(.*?)[-_.]?0*([0-9]{1,6})-of-0*([0-9]{1,6})$")


class ShardName(NamedTuple):
    """What the name of a shard says: of which model it is, and which of how many."""

    stem: str
    number: int
    total: int


def shard_name(name: str) -> ShardName | None:
    """Return what a name says of a shard; None where it is no name of one.

    >>> shard_name("llm/model-00002-of-00003")
    ShardName(stem='llm/model', number=2, total=3)
    >>> shard_name("best-of-3"), shard_name("model-00004-of-00003")
    (None, None)
    """
    found = _SHARD.fullmatch(name)
    if found is None:
        return None
    shard = ShardName(found[1], int(found[2]), int(found[3]))
    return shard if 1 <= shard.number <= shard.total else None


def are_shards_of_one(a: str, b: str) -> bool:
    """Whether two names are those of two shards of one model.

    >>> are_shards_of_one("m-00001-of-00002", "m-00002-of-00002")
    True
    >>> are_shards_of_one("m-00001-of-00002", "n-00002-of-00002")
    False
    """
    one, other = shard_name(a), shard_name(b)
    if one is None or other is None:
        return False
    return one.stem == other.stem and one.total == other.total and one.number != other.number
