"""Tar members as byte ranges: reading headers out of a buffer, and writing plain ustar ones.

The format is POSIX.1-2001 pax, with the GNU extensions that occur in practice (long names, base-256 sizes).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
_ZEROS = bytes(BLOCK)
_OWNER = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"%011o\0" % 0
_REST = b"".join((bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2, bytes(155 + 12)))


class TarError(ValueError):
    """Bytes that are not a tar, said without the file's name, which the caller knows."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file: bytes [start, stop) with all its headers and padding, payload [data, data + size)."""

    name: str
    start: int
    data: int
    size: int

    @property
    def stop(self) -> int:
        """End of the padded payload."""
        return self.data + padded(self.size)


def padded(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def members(buffer: Any, start: int = 0, stop: int | None = None, *, archive: bool = True) -> Iterator[Member]:
    """Regular files in `buffer[start:stop]`, in order; `buffer` slices to bytes (bytes, memoryview, mmap).

    Links, directories and devices are passed over; nothing is ever extracted. A whole archive must have its
    end-of-archive block, else it was cut; a part of one (`archive=False`) ends where `stop` says. Raises
    `TarError` that names the 512-byte block.
    """
    stop = len(buffer) if stop is None else stop
    position, run_start, name, size = start, start, None, None
    while position < stop:
        block = bytes(buffer[position : position + BLOCK])
        if block == _ZEROS:
            if archive and name is None and size is None:
                return
            raise TarError(f"block {position // BLOCK} is empty where a member should follow")
        header = _parse(block, position)
        extent = header.size if size is None else size
        data = position + BLOCK
        end = data + (0 if header.type in b"123456" else padded(extent))
        if end > stop:
            raise TarError(f"truncated: the member at block {position // BLOCK} ends at byte {end}, beyond {stop}")
        if header.type in b"xLKg":
            payload = bytes(buffer[data : data + header.size])
            if header.type == b"L":
                name = _text(payload)
            elif header.type != b"K":
                records = _pax_records(payload, position)
                if header.type == b"g" and records.keys() & {"path", "size"}:
                    raise TarError(f"block {position // BLOCK} sets a path or size for all members")
                if header.type == b"x":
                    name = records.get("path", name)
                    size = _pax_size(records["size"], position) if "size" in records else size
                    if any(record.startswith("GNU.sparse") for record in records):
                        raise TarError(f"block {position // BLOCK} is a sparse file; pack the data plainly")
            position = data + padded(header.size)
            if header.type == b"g":
                run_start = position
            continue
        if header.type in b"S":
            raise TarError(f"block {position // BLOCK} is a sparse file; pack the data plainly")
        if header.type in b"0\0007":
            yield Member(header.name if name is None else name, run_start, data, extent)
        position = run_start = end
        name = size = None
    if archive:
        raise TarError("truncated: it has no end-of-archive block")
    if position != run_start:
        raise TarError(f"truncated: no member follows the extended header at block {run_start // BLOCK}")


def header(name: str, size: int) -> bytes:
    """Header of a regular file with mode 0644 and everything else zero: ustar, 512 bytes.

    A name of more than 100 UTF-8 bytes, or a size from 8 GiB on, gets a pax header before it (1,536 bytes).
    """
    encoded = name.encode()
    if len(encoded) <= 100 and size < 8**11:
        return _ustar(encoded, size, b"0")
    records = _pax_record("path", name) + _pax_record("size", str(size))
    extended = _ustar(b"pax", len(records), b"x") + records.ljust(padded(len(records)), b"\0")
    return extended + _ustar(encoded[:100], size if size < 8**11 else 0, b"0")


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    type: bytes


def _parse(block: bytes, position: int) -> _Header:
    if len(block) < BLOCK:
        raise TarError(f"truncated: block {position // BLOCK} has {len(block)} bytes")
    try:
        stated = int(block[148:156].strip(b" \0"), 8)
        if (stated + sum(block[148:156]) - 8 * 32 - _sum(block)) % 65521:
            raise ValueError
        if block[124] & 0x80:
            size = int.from_bytes(bytes([block[124] & 0x7F]) + block[125:136], "big")
        else:
            size = int(block[124:136].strip(b" \0") or b"0", 8)
        if size < 0:
            raise ValueError
    except ValueError:
        raise TarError(f"block {position // BLOCK} is not the header of a tar member") from None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(name, size, block[156:157])


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax_records(payload: bytes, position: int) -> dict[str, str]:
    records = {}
    at = 0
    try:
        while at < len(payload) and payload[at]:
            digits = payload[at : payload.index(b" ", at)]
            record = payload[at + len(digits) + 1 : at + int(digits)]
            key, value = record.removesuffix(b"\n").split(b"=", 1)
            records[key.decode()] = value.decode("utf-8", "surrogateescape")
            at += int(digits)
            if int(digits) <= 0:
                raise ValueError
    except ValueError:
        raise TarError(f"block {position // BLOCK} is a broken extended header") from None
    return records


def _pax_size(value: str, position: int) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise TarError(f"block {position // BLOCK} states a size of {value!r}")
    return int(value)


def _pax_record(key: str, value: str) -> bytes:
    content = f" {key}={value}\n".encode()
    length = len(content) + len(str(len(content)))
    length = len(content) + len(str(length))
    return str(length).encode() + content


def _ustar(name: bytes, size: int, kind: bytes) -> bytes:
    start, end = name.ljust(100, b"\0") + _OWNER + b"%011o\0" % size + _MTIME, kind + _REST
    total = _sum(start + b" " * 8 + end)
    return start + b"%06o\0 " % total + end


def _sum(block: bytes) -> int:
    """Sum of the bytes modulo 65521, at C speed; no header of ours reaches that."""
    return (zlib.adler32(block) & 0xFFFF) - 1
