"""What a chain wants of a language model, apart from who does it.

A chain is written once, as a generator: it yields what to read and how to write on, is sent what was written, and
returns its result. One sequence at a time (`play`), thousands in a batch, or a server of its own can play the
same program and get the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from usdm.lm.generation import Generated, TokenStream
from usdm.types import Sampling

Result = TypeVar("Result")


@dataclass(frozen=True)
class GenerateRequest:
    """One stage: append `ids` to the sequence, then write on."""

    stage: str
    ids: Sequence[int]
    allowed: Tensor  # (V,) bool, the stop ids included
    stop_ids: Collection[int]
    sampling: Sampling


@dataclass(frozen=True)
class TokenEvent:
    """An id that a stage has just written."""

    stage: str
    id: int


StageProgram = Generator[GenerateRequest, Generated, Result]


def play(program: StageProgram[Result], stream: TokenStream) -> Generator[TokenEvent, None, Result]:
    """Play a program on one stream, and yield every id as soon as it is written; the program's result is returned.

    Closing the generator early closes the program too. Raises InputError as `TokenStream` does, inside the program.
    """
    try:
        request = next(program)
        while True:
            try:
                stream.extend(request.ids)
                writing = stream.write(request.allowed, request.stop_ids, request.sampling)
                generated = yield from _named(request.stage, writing)
            except Exception as error:
                request = program.throw(error)
            else:
                request = program.send(generated)
    except StopIteration as end:
        return end.value
    finally:
        program.close()


def finish(steps: Generator[Any, None, Result]) -> Result:
    """What a generator returns at its end, whatever it yields before."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _named(stage: str, writing: Generator[int, None, Generated]) -> Generator[TokenEvent, None, Generated]:
    while True:
        try:
            id_ = next(writing)
        except StopIteration as end:
            return end.value
        yield TokenEvent(stage, id_)
