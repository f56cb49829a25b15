"""What a sound file's container says of itself: how much sound it should hold, and which format it is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_UNKNOWN_FROM = 0x7FFF_0000  # bytes; programs that write into a pipe state some such size, or 0
_OGG_TAIL = 1 << 17  # bytes; a page has 65,307 at most
_OGG_END = 4  # flag of a stream's last page


@dataclass(frozen=True)
class PhoneFormat:
    """A container that libsndfile does not read."""

    name: str
    demuxer: str  # ffmpeg's name; it is told, so that no file can pass for a playlist that opens others


def phone_format(head: bytes) -> PhoneFormat | None:
    """The format of a file that begins with `head` (16 bytes are enough), None if it is none of those."""
    if head[4:8] == b"ftyp":
        brand = head[8:11].decode("ascii", "replace").upper()
        return PhoneFormat("3GP" if brand.startswith("3G") else "MPEG-4 (M4A, MP4, MOV)", "mov")
    for magic, format_ in (
        (b"\x1aE\xdf\xa3", PhoneFormat("WebM or Matroska", "matroska")),
        (b"#!AMR", PhoneFormat("AMR", "amr")),
        (b"0&\xb2u\x8ef\xcf\x11", PhoneFormat("Windows Media (WMA)", "asf")),
        (b"\xff\xf1", PhoneFormat("AAC", "aac")),
        (b"\xff\xf9", PhoneFormat("AAC", "aac")),
    ):
        if head.startswith(magic):
            return format_
    return None


def share_there(file: BinaryIO) -> float | None:
    """How much of the sound that WAV, AIFF and AU files state is there, 0 to 1; None where nothing is stated."""
    stated = _stated_data(file)
    if stated is None:
        return None
    begin, size = stated
    return max(0, min(1, (file.seek(0, 2) - begin) / size))


def lacks_ogg_end(file: BinaryIO) -> bool:
    """Whether it is an Ogg file whose last page is cut, or is not said to be the last. How much there was is not
    written in such files."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    size = file.seek(0, 2)
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < length or not page[5] & _OGG_END


def _stated_data(file: BinaryIO) -> tuple[int, int] | None:
    """Where the samples begin and how many bytes of them the header states; None where it does not know."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b".snd":
        begin, size = struct.unpack(">II", head[4:])
    elif head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        begin, size = _chunk(file, "<", b"data")
    elif head[:4] == b"RIFX" and head[8:] == b"WAVE":
        begin, size = _chunk(file, ">", b"data")
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        begin, size = _chunk(file, ">", b"SSND")
    else:
        return None
    return (begin, size) if 0 < size < _UNKNOWN_FROM or head[:4] == b"RF64" and size else None


def _chunk(file: BinaryIO, order: str, wanted: bytes) -> tuple[int, int]:
    """Where the chunk's content begins and its size; (0, 0) if there is none."""
    long_size = 0
    while len(head := file.read(8)) == 8:
        name, size = head[:4], struct.unpack(order + "I", head[4:])[0]
        begin = file.tell()
        if name == wanted:
            return begin, long_size or size
        if name == b"ds64":  # of RF64: the size of the samples, which does not fit where it usually stands
            long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        file.seek(begin + size + size % 2)
    return 0, 0
