"""A table as JSON, CSV, Arrow or Parquet, as the ending of the address or `Accept` asks for."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from megasim.serve.refusals import Refusal

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["json", "csv", "arrow", "parquet"]
FORMATS: tuple[Format, ...] = ("json", "csv", "arrow", "parquet")
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def format_of(request: Request, ending: str = "") -> Format:
    """Return the format that a request asks for: by its ending, else by `Accept`, else JSON.

    Raises:
        Refusal: the ending is unknown, or the client takes none of them.
    """
    if ending:
        if ending not in FORMATS:
            raise Refusal(404, f"there is no .{ending} of this", f"use .{', .'.join(FORMATS)}")
        return ending
    accept = request.headers.get("accept", "") or "*/*"
    taken = []
    for i, one in enumerate(accept.lower().split(",")):
        media_type, *parameters = (part.strip() for part in one.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            taken.append((-float(weight), i, media_type))
        except ValueError:
            continue
    for weight_, _, media_type in sorted(taken):
        if not weight_:
            continue
        if media_type in ("*/*", "application/*", "text/html"):
            return "json"
        if media_type == "text/*":
            return "csv"
        for name, known in MEDIA_TYPES.items():
            if media_type == known:
                return name
    raise Refusal(406, "none of the formats asked for is there", f"ask for .{', .'.join(FORMATS)}")


def table_response(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    format: Format,
    *,
    name: str,
    headers: dict[str, str] | None = None,
    beside: dict[str, Any] | None = None,
    after: Callable[[], dict[str, Any]] = dict,
) -> Response:
    """Return a table, streamed batch by batch.

    Args:
        name: of the file that a browser keeps it as, without its ending.
        beside: what JSON says before the rows.
        after: returns what JSON says after them, once they are read.
    """
    given = dict(headers or {})
    if format in ("csv", "parquet"):
        given["content-disposition"] = f'attachment; filename="{_file_name(name)}.{format}"'
    content: Iterator[str] | Iterator[bytes]
    if format == "json":
        content = json_parts(batches, schema, beside or {}, after)
    elif format == "csv":
        content = csv_parts(batches, schema)
    else:
        content = (arrow_parts if format == "arrow" else parquet_parts)(batches, schema)
    return StreamingResponse(content, headers=given, media_type=MEDIA_TYPES[format])


def json_parts(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    beside: dict[str, Any],
    after: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    """Yield a table as an object: `columns`, `rows` as a list of objects, and what is beside them.

    NULL, NaN and infinities are null.
    """
    head = {"columns": [{"name": f.name, "type": str(f.type)} for f in schema], **beside}
    yield json_text(head)[:-1] + ', "rows": ['
    first = True
    for batch in batches:
        rows = [json_text({k: json_value(v) for k, v in row.items()}) for row in _rows_of(batch)]
        if rows:
            yield ("\n" if first else ",\n") + ",\n".join(rows)
            first = False
    yield "\n]" + "".join(f", {json_text(k)}: {json_text(v)}" for k, v in after().items()) + "}\n"


def csv_parts(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[str]:
    """Yield a table as CSV, empty where NULL; lists and structs are JSON within a cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(schema.names)
    for batch in batches:
        columns = [map(_csv_value, column.to_pylist()) for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def arrow_parts(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Yield a table as an Arrow stream."""
    import pyarrow as pa

    out = _Drained()
    with pa.ipc.new_stream(out, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield out.drain()
    yield out.drain()


def parquet_parts(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Yield a table as a Parquet file, one row group a batch."""
    import pyarrow.parquet as pq

    out = _Drained()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield out.drain()
    yield out.drain()


class _Drained(io.RawIOBase):
    """A file that is only written to, and whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        return self._written

    def drain(self) -> bytes:
        """Return what was written since the last call."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def json_text(value: Any) -> str:
    r"""Return a value as JSON in ASCII: what a terminal or a page might obey is escaped.

    >>> print(json_text({"model": "a\u202e</script>"}))
    {"model": "a\u202e\u003c/script\u003e"}
    """
    text = json.dumps(value, allow_nan=False, default=_plain)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\x7f", "\\u007f")


def json_value(value: Any) -> Any:
    """Return a value with null for what JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    return value


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "item"):
        return json_value(value.item())
    return str(value)


def _csv_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "" if value != value else value
    if isinstance(value, list | dict | tuple):
        return json_text(json_value(value))
    return value.hex() if isinstance(value, bytes) else value


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = batch.schema.names
    columns = [column.to_pylist() for column in batch.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _file_name(name: str) -> str:
    """Return a name that is safe in a header and as a file."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)[:80]
