"""The process that decodes pictures for `decoding`: groups of pictures in, an answer a picture out.

It reads a whole group from its standard input before it answers, so that neither side waits for
the other with a full pipe, and writes each answer as soon as it has it, so that the other side
knows which picture it is at. It ends with its input. Whatever happens to it, only the pictures in
its hands are lost: the decoders are C, and pictures come from anywhere.

    ready     READY, once
    group     COUNT of pictures, SIZE of each, and their bytes
    answer    ANSWER: is it a picture, its channel sums and squares, the size of what follows
              and then the picture's content, or the reason why there is none in UTF-8
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

from pipeline.examples import pictures

READY = b"R"
COUNT = struct.Struct("<I")
SIZE = struct.Struct("<Q")
ANSWER = struct.Struct("<?6QQ")
_NO_SUMS = (0,) * 6
# Of a pixel in the decoder's and Pillow's hands at once: coefficients of a progressive JPEG, the
# components of a JPEG2000 and copies in other modes have up to 16 bytes each.
_BYTES_A_PIXEL = 64
_OTHER_BYTES = 2**30  # the interpreter, libraries, and the picture files of a group
_GRACE_SECONDS = 5.0


def main(image_size: str, max_pixels: str, max_seconds: str, encoding: pictures.Encoding) -> None:
    """Answers until the input ends; the settings are those of decoding.PictureSettings."""
    requests, answers = _take_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and that ends this
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory(_OTHER_BYTES + _BYTES_A_PIXEL * int(max_pixels))
    pictures.load_decoders()
    _send(answers, READY)
    os.dup2(1, 2)  # until now the parent reads what goes wrong; later nobody does
    patience = float(max_seconds) + _GRACE_SECONDS
    while group := _read_group(requests):
        for data in group:
            # Ends this process, in whatever code it is, where the parent is no more and cannot.
            signal.setitimer(signal.ITIMER_REAL, patience)
            answer = _answer(data, int(image_size), int(max_pixels), encoding)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, answer)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, and nothing for a library that prints."""
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    return sys.stdin.buffer, answers


def _limit_memory(size: int) -> None:
    """No more than `size` bytes of address space, and no core files."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return
    for kind, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # macOS does not know every limit
            resource.setrlimit(
                kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
            )


def _read_group(requests: BinaryIO) -> list[bytes]:
    """The pictures of the next group; none where the input ended."""
    header = requests.read(COUNT.size)
    if len(header) < COUNT.size:
        return []
    sizes = requests.read(COUNT.unpack(header)[0] * SIZE.size)
    return [requests.read(size) for (size,) in SIZE.iter_unpack(sizes)]


def _answer(data: bytes, image_size: int, max_pixels: int, encoding: pictures.Encoding) -> bytes:
    try:
        found = pictures.prepare(
            data, image_size=image_size, max_pixels=max_pixels, encoding=encoding
        )
    except pictures.PictureError as error:
        reason = str(error).encode()
        return ANSWER.pack(False, *_NO_SUMS, len(reason)) + reason
    sums = (*found.channel_sums, *found.channel_squares)
    return ANSWER.pack(True, *sums, len(found.content)) + found.content


def _send(answers: BinaryIO, data: bytes) -> None:
    answers.write(data)
    answers.flush()
