"""Every constant of the lineage says where it comes from."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from megasim.lineage.settings import LineageSettings


def test_every_setting_is_explained() -> None:
    text = inspect.getdoc(LineageSettings) or ""
    described = {
        name
        for line in re.findall(r"^    ([a-z_][a-z_, ]*):", text, re.MULTILINE)
        for name in line.split(", ")
    }
    assert described == {field.name for field in fields(LineageSettings)}
