"""Where the entries of an uncompressed zip file lie: what torch.save writes its tensors into.

Python's zipfile is not used because a tensor needs the offset of its bytes, which zipfile does
not tell, and because here every number is checked against the file before it is believed.
Source of the layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.errors import CheckpointError, printable

_LOCAL = struct.Struct("<4s5HLLLHH")
_CENTRAL = struct.Struct("<4s6HLLLHHHHHLL")
_END = struct.Struct("<4s4HLLH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
# Bytes between the name of an entry and its data, at most, as torch writes them.
_PADDING = 128
_MAX_PLAIN = 1 << 20  # bytes of an entry that no limit names
_RESAVE = "save it again with torch.save"


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One entry: where its header is, its bytes as stored and unpacked, its CRC-32 (0: unknown)."""

    name: str
    method: int
    flags: int
    header_offset: int
    packed: int
    size: int
    crc: int


@dataclass(frozen=True)
class ZipDirectory:
    """All entries by name, and the bytes of the directory itself."""

    entries: dict[str, ZipEntry]
    raw: bytes
    offset: int

    def data_offset(self, source: ByteSource, name: str) -> int:
        """Return the offset of the first byte of an entry that is stored as it is.

        Raises CheckpointError if it is compressed, or not where the directory says.
        """
        if self.entries[name].method != _STORED:
            raise CheckpointError(
                source.path, f"the entry {printable(name, 80)} is compressed", _RESAVE
            )
        return self._locate(source, self.entries[name])

    def read(self, source: ByteSource, name: str, limit: str = "") -> bytes:
        """Return the data of an entry, its checksum verified.

        Args:
            limit: the name of the limit for its bytes; "" for a mebibyte.
        """
        entry = self.entries[name]
        size = max(entry.size, entry.packed)
        if limit:
            source.limits.check(limit, size, source.path, name)
        elif size > _MAX_PLAIN:
            raise CheckpointError(source.path, f"{printable(name, 80)} is larger than 1 MiB")
        data = source.read(self._locate(source, entry), entry.packed)
        if entry.method == _DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, entry.size + 1)
            except zlib.error:
                data = b""
        known = entry.crc != 0  # torch writes 0 when told not to compute it
        if len(data) != entry.size or (known and zlib.crc32(data) != entry.crc):
            raise CheckpointError(
                source.path, f"{printable(name, 80)} does not match its checksum", CUT_SHORT
            )
        return data

    def _locate(self, source: ByteSource, entry: ZipEntry) -> int:
        """The offset of an entry's data, as its local header has it."""
        label = f"the entry {printable(entry.name, 80)}"
        if entry.flags & _ENCRYPTED or entry.method not in (_STORED, _DEFLATED):
            raise CheckpointError(source.path, f"{label} is packed in an unknown way", _RESAVE)
        header = source.read(entry.header_offset, _LOCAL.size)
        magic, _, _, method, *_, name_size, extra_size = _LOCAL.unpack(header)
        begin = entry.header_offset + _LOCAL.size
        data = begin + name_size + extra_size
        extra = source.read(begin + name_size, extra_size)
        if (
            magic != b"PK\x03\x04"
            or method != entry.method
            or source.read(begin, name_size).decode("utf-8", "replace") != entry.name
            or not _is_whole(extra)
            or data + entry.packed > self.offset
        ):
            raise CheckpointError(source.path, f"{label} is not where it should be", CUT_SHORT)
        return int(data)


def read_zip_directory(source: ByteSource) -> ZipDirectory:
    """Return the directory of a zip file; no entry is opened.

    Raises CheckpointError if there is none, if it is inconsistent, names an entry twice, or has
    more entries than the limits let through.
    """
    count, size, offset = _find_directory(source)
    if offset + size > source.size or count > size // _CENTRAL.size:
        raise _broken(source)
    source.limits.check("entries", count, source.path)
    source.limits.check("key_bytes", size - count * _CENTRAL.size, source.path)
    raw = source.read(offset, size)
    entries: dict[str, ZipEntry] = {}
    at = 0
    try:
        for _ in range(count):
            entry, at = _parse_entry(raw, at)
            if entry.name in entries:
                raise CheckpointError(
                    source.path, f"the zip names {printable(entry.name, 80)} twice", _RESAVE
                )
            entries[entry.name] = entry
        if at != size:
            raise ValueError("bytes after the last record")
    except (struct.error, ValueError):
        raise _broken(source) from None
    source.expect(
        (e.header_offset, _LOCAL.size + len(e.name.encode()) + _PADDING) for e in entries.values()
    )
    return ZipDirectory(entries, raw, offset)


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """The number of entries, and the size and offset of the directory."""
    tail_size = min(source.size, _END.size + 65535)
    tail_offset = source.size - tail_size
    tail = source.read(tail_offset, tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise CheckpointError(
            source.path, "cut short: a zip file without its directory at the end", CUT_SHORT
        )
    _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, at)
    locator = tail_offset + at - _LOCATOR64.size
    if locator >= 0:
        magic, _, end64, _ = _LOCATOR64.unpack(source.read(locator, _LOCATOR64.size))
        if magic == b"PK\x06\x07":
            fields = _END64.unpack(source.read(end64, _END64.size))
            if fields[0] != b"PK\x06\x06":
                raise _broken(source)
            count, size, offset = fields[-3:]
    return count, size, offset


def _parse_entry(raw: bytes, at: int) -> tuple[ZipEntry, int]:
    """The entry whose directory record begins at `at`, and where the next one begins."""
    fields = _CENTRAL.unpack_from(raw, at)
    magic, _, _, flags, method, _, _, crc, packed, size, *sizes = fields
    name_size, extra_size, comment_size, _, _, _, header_offset = sizes
    begin = at + _CENTRAL.size
    end = begin + name_size + extra_size + comment_size
    if magic != b"PK\x01\x02" or end > len(raw):
        raise ValueError("not a directory record")
    name = raw[begin : begin + name_size].decode("utf-8", "replace")
    extra = raw[begin + name_size : begin + name_size + extra_size]
    # A field too large for its place holds the largest number there, and stands in the zip64 extra.
    large = [value == 0xFFFFFFFF for value in (size, packed, header_offset)]
    if any(large):
        numbers = iter(_zip64_numbers(extra))
        size, packed, header_offset = (
            next(numbers, -1) if is_large else value
            for value, is_large in zip((size, packed, header_offset), large, strict=True)
        )
    if min(size, packed, header_offset) < 0 or (method == _STORED and size != packed):
        raise ValueError("sizes that contradict each other")
    return ZipEntry(name, method, flags, header_offset, packed, size, crc), end


def _is_whole(extra: bytes) -> bool:
    """Whether an extra field is made of whole records: torch pads with one, up to the data."""
    at = 0
    while at + 4 <= len(extra):
        at += 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
    return at == len(extra)


def _zip64_numbers(extra: bytes) -> list[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + size]
            return [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
        at += 4 + size
    return []


def _broken(source: ByteSource) -> CheckpointError:
    return CheckpointError(source.path, "the zip directory is damaged", CUT_SHORT)
