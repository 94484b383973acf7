"""EXIF and IPTC of a picture's file: taken from where it says them, and put into a file that was written, as the bytes that they are.

libexif, by which libvips writes EXIF, leaves out what it does not know (a rating), libvips writes none into a TIFF, and Pillow knows no
TIFF of 16-bit colour and turns "José" into "Jos??". So an entry is a type, a count and bytes here, and nothing looks into them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_UNITS = {3: 2, 8: 2, 4: 4, 9: 4, 5: 4, 10: 4, 11: 4, 12: 8, 13: 4}
"""Bytes of a value of each type of an entry, and of what is turned round where bytes have another order."""
MOST, LONGEST = 1000, 2**24
"""Entries of a directory and bytes of one."""
PHOTO, PLACE, IPTC = 0x8769, 0x8825, 0x83BB
_KEPT = (269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
"""Name, description, make, model, software, date, artist, host, rating, copyright, what Windows adds; others are of the file's layout."""
_BELOW, _KIND, _RAW = 330, 262, (32803, 34892)
"""Directories below this one; how its values are meant, of which these two are a sensor's."""
_RESOLUTION = (282, 283, 296)
_SPACE, _WIDTH, _HEIGHT = 0xA001, 0xA002, 0xA003
_STALE = (_SPACE, _WIDTH, _HEIGHT, 0xA005, 0x927C, 0xEA1C)
"""Colours, sides, the version of the colours, what a maker has written for itself, and padding."""
_BLOCK = b"Exif\0\0"


class Entry(NamedTuple):
    """`number` values of a TIFF's type `kind`, as bytes."""

    kind: int
    number: int
    value: bytes


Directory = dict[int, Entry]


class Exif(NamedTuple):
    """Directories of entries by tag: of the file, of the exposure and of the place. `order` of bytes is `<` or `>`."""

    order: str
    main: Directory
    photo: Directory
    place: Directory


def parsed(data: bytes) -> Exif | None:
    """Of a block of EXIF or of a whole TIFF, without what is damaged; None if it is neither."""
    data = data.removeprefix(_BLOCK)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None

    def below(tag: int) -> Directory:
        entry = main.get(tag)
        if entry is None or len(entry.value) != 4:
            return {}
        return _directory(data, order, struct.unpack(order + "I", entry.value)[0])

    main = _directory(data, order, struct.unpack(order + "I", data[4:8])[0])
    return Exif(order, main, below(PHOTO), below(PLACE))


def _directory(data: bytes, order: str, at: int) -> Directory:
    found: Directory = {}
    with suppress(struct.error):
        (count,) = struct.unpack_from(order + "H", data, at)
        for k in range(min(count, MOST)):
            tag, kind, number, place = struct.unpack_from(order + "HHII", data, at + 2 + 12 * k)
            length = _SIZES.get(kind, LONGEST) * number
            first = at + 10 + 12 * k if length <= 4 else place
            value = data[first : first + length] if length < LONGEST else b""
            if len(value) == length and number:
                found[tag] = Entry(kind, number, value)
    return found


def is_mosaic(data: bytes) -> bool:
    """Whether a TIFF holds what a sensor saw, not yet developed: first, or in a directory below the first, a small view."""
    found = parsed(data)
    if found is None:
        return False
    below = found.main.get(_BELOW, Entry(4, 0, b"")).value
    starts = [struct.unpack_from(found.order + "I", below, at)[0] for at in range(0, len(below) - 3, 4)]
    for part in (found.main, *(_directory(data, found.order, start) for start in starts[:16])):
        told = part.get(_KIND)
        if told is not None and len(told.value) == 2 and struct.unpack(found.order + "H", told.value)[0] in _RAW:
            return True
    return False


def kept(found: Exif) -> Exif:
    """What is still true of a picture that was made from that one."""
    main = {tag: entry for tag, entry in found.main.items() if tag in _KEPT}
    photo = {tag: entry for tag, entry in found.photo.items() if tag not in _STALE}
    return found._replace(main=main, photo=photo)


def told(found: Exif, size: tuple[int, int], pixels_per_mm: tuple[float, float] | None) -> Exif:
    """What is kept of it, for an upright picture of (width, height) in sRGB, of that resolution or the one that it says."""
    order, (width, height) = found.order, size
    one = kept(found)
    main = {**one.main, 274: _short(order, 1)}
    if pixels_per_mm is None:
        main |= {tag: found.main[tag] for tag in _RESOLUTION if tag in found.main}
    else:
        main |= {282 + k: _ratio(order, side * 25.4) for k, side in enumerate(pixels_per_mm)} | {296: _short(order, 2)}
    photo = one.photo
    if found.photo:
        photo = {**photo, _SPACE: _short(order, 1)}
        photo |= {tag: _long(order, side) for tag, side in ((_WIDTH, width), (_HEIGHT, height)) if tag in found.photo}
    return one._replace(main=main, photo=photo)


def block(found: Exif) -> bytes:
    """As it stands in a JPEG, with its mark."""
    return _BLOCK + {"<": b"II*\0", ">": b"MM\0*"}[found.order] + struct.pack(found.order + "I", 8) + _packed(found, 8)


def _short(order: str, value: int) -> Entry:
    return Entry(3, 1, struct.pack(order + "H", value))


def _long(order: str, value: int) -> Entry:
    return Entry(4, 1, struct.pack(order + "I", value))


def _ratio(order: str, value: float) -> Entry:
    return Entry(5, 1, struct.pack(order + "II", min(round(value * 1000), 2**32 - 1), 1000))


def _packed(found: Exif, at: int) -> bytes:
    """The directories as they stand from byte `at` of a file."""
    below = [(tag, part) for tag, part in ((PHOTO, found.photo), (PLACE, found.place)) if part]
    main = {**found.main, **{tag: _long(found.order, 0) for tag, _ in below}}
    at += len(_written(main, found.order, at))
    parts = b""
    for tag, part in below:
        main[tag] = _long(found.order, at + len(parts))
        parts += _written(part, found.order, at + len(parts))
    return _written(main, found.order, at - len(_written(main, found.order, 0))) + parts


def _written(directory: Directory, order: str, at: int) -> bytes:
    place, entries, values = at + 2 + 12 * len(directory) + 4, b"", b""
    for tag, entry in sorted(directory.items()):
        entries += struct.pack(order + "HHI", tag, entry.kind, entry.number)
        if len(entry.value) <= 4:
            entries += entry.value.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", place + len(values))
            values += entry.value + b"\0" * (len(entry.value) % 2)
    return struct.pack(order + "H", len(directory)) + entries + bytes(4) + values


# --- into files that were written ---


def placed(
    data: bytes, kind: str, found: Exif | None, iptc: bytes | None = None, texts: Mapping[str, str] | None = None
) -> bytes:
    """A file of the kind JPEG, PNG, WEBP or TIFF with this EXIF in the place of the one that it has; of TIFF and PNG with that IPTC, and of
    PNG with these texts, by their keywords.

    A TIFF gets another first directory behind all else; a file of another kind that has no EXIF gets none.
    """
    if kind == "TIFF":
        return _into_tiff(data, found, iptc)
    if kind == "PNG":
        parts = [_chunk(*_text(key, text)) for key, text in (texts or {}).items()]
        parts += [_chunk(b"zTXt", _IPTC.encode() + b"\0\0" + zlib.compress(_in_text(iptc).encode()))] if iptc else []
        data = data[:33] + b"".join(parts) + data[33:]  # behind its head
    if found is None:
        return data
    content = block(found)
    if kind == "JPEG":
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == _BLOCK and len(content) < 65534:
                return data[: at + 2] + struct.pack(">H", len(content) + 2) + content + data[at + 2 + length :]
            at += 2 + length
        return data
    return _into_png(data, content) if kind == "PNG" else _into_webp(data, content)


def _text(key: str, text: str) -> tuple[bytes, bytes]:
    """A chunk of a PNG: in Latin-1, or with a mark in UTF-8."""
    name = key.encode("latin-1", "replace")[:79]
    with suppress(UnicodeEncodeError):
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    return b"iTXt", name + b"\0\0\0\0\0" + text.encode(errors="replace")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _into_png(data: bytes, content: bytes) -> bytes:
    at, content = 8, content.removeprefix(_BLOCK)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"eXIf":
            return data[:at] + _chunk(name, content) + data[at + 12 + length :]
        at += 12 + length
    return data


def _into_webp(data: bytes, content: bytes) -> bytes:
    at, content = 12, content.removeprefix(_BLOCK)
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            made = name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
            whole = data[12:at] + made + data[at + 8 + length + length % 2 :]
            return b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WEBP" + whole
        at += 8 + length + length % 2
    return data


def _into_tiff(data: bytes, found: Exif | None, iptc: bytes | None) -> bytes:
    own = parsed(data)
    if own is None or (found is None and iptc is None):
        return data
    more = Exif(own.order, {}, {}, {}) if found is None else _ordered(found, own.order)
    main = {**more.main, **own.main}  # the layout goes before
    if iptc is not None:
        main[IPTC] = Entry(7, len(iptc), iptc)
    data += b"\0" * (len(data) % 2)
    whole = data + _packed(Exif(own.order, main, more.photo, more.place), len(data))
    return whole[:4] + struct.pack(own.order + "I", len(data)) + whole[8:]


def _ordered(found: Exif, order: str) -> Exif:
    if found.order == order:
        return found

    def turned(part: Directory) -> Directory:
        new = {}
        for tag, entry in part.items():
            unit, old = _UNITS.get(entry.kind, 1), entry.value
            new[tag] = entry._replace(value=b"".join(old[k : k + unit][::-1] for k in range(0, len(old), unit)))
        return new

    return Exif(order, turned(found.main), turned(found.photo), turned(found.place))


# --- IPTC ---

_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC = "Raw profile type iptc"
"""The keyword of the text by which programs keep IPTC in a PNG, which has no place of its own for it."""


def iptc_of(data: bytes) -> bytes | None:
    """The fields themselves, of what a JPEG holds (Photoshop's resources, of which they are one) or a TIFF."""
    if not data.startswith((_PHOTOSHOP, b"8BIM")):
        return data if data.startswith(b"\x1c") else None
    at = len(_PHOTOSHOP) if data.startswith(_PHOTOSHOP) else 0
    with suppress(struct.error, IndexError):
        while data[at : at + 4] == b"8BIM":
            (number,) = struct.unpack_from(">H", data, at + 4)
            at += 6 + (data[at + 6] + 2) // 2 * 2  # a name, of an even length with its own byte
            (length,) = struct.unpack_from(">I", data, at)
            if number == 0x0404:
                return data[at + 4 : at + 4 + length]
            at += 4 + length + length % 2
    return None


def iptc_in_jpeg(fields: bytes) -> bytes:
    """As a JPEG holds them."""
    return _PHOTOSHOP + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(fields)) + fields + b"\0" * (len(fields) % 2)


def _in_text(fields: bytes) -> str:
    """In hexadecimal."""
    content = iptc_in_jpeg(fields).removeprefix(_PHOTOSHOP).hex()
    rows = "\n".join(content[k : k + 72] for k in range(0, len(content), 72))
    return f"\niptc\n{len(content) // 2:8}\n{rows}\n"


def texts_of(png: bytes) -> tuple[dict[str, str], bytes | None]:
    """Texts of a PNG by their keywords, and the IPTC that is in one; without XMP and profiles, which are no texts, and what is damaged."""
    texts, at = dict[str, str](), 8
    iptc: bytes | None = None
    while at + 12 <= len(png) and len(texts) < MOST:
        length, name = struct.unpack_from(">I4s", png, at)
        if name in (b"tEXt", b"zTXt", b"iTXt") and length < LONGEST:
            key, _, rest = png[at + 8 : at + 8 + length].partition(b"\0")
            with suppress(zlib.error, ValueError, IndexError):
                texts[key.decode("latin-1")] = _said(name, rest)
        at += 12 + length
    for word in [word for word in texts if word.startswith("Raw profile type ") or word == "XML:com.adobe.xmp"]:
        text = texts.pop(word)
        iptc = _iptc_of_text(text) if word == _IPTC else iptc
    return texts, iptc


def _said(name: bytes, rest: bytes) -> str:
    """What stands behind a keyword."""
    if name == b"tEXt":
        return rest.decode("latin-1")
    packed = name == b"zTXt" or rest[0] == 1
    rest = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[2]
    if packed:
        unpacking = zlib.decompressobj()
        rest = unpacking.decompress(rest, LONGEST)
        if unpacking.unconsumed_tail:
            raise ValueError("it is too long")
    return rest.decode("latin-1" if name == b"zTXt" else "utf-8")


def _iptc_of_text(text: str) -> bytes | None:
    found = re.fullmatch(r"\s*[\w ]+\n\s*\d+\s*\n([0-9a-fA-F\s]*)", text)
    with suppress(ValueError):
        return iptc_of(bytes.fromhex("".join(found[1].split()))) if found else None
    return None
