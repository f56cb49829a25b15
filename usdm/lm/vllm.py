"""Scripts played by vLLM (extra `vllm`), for servers with GPUs that answer many at once.

vLLM batches, pages and schedules by itself: here each stage of each program is one request, and its prefix cache
finds what the stages before have read.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from usdm.lm.generation import Generated, check_room
from usdm.lm.sampling import check_sampling
from usdm.lm.stage_program import GenerateRequest, StageProgram
from usdm.types import InputError

FINISHED = ("stop", "length")  # reasons of vLLM; others are "abort", "error", ...

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class VllmBatch:
    """Plays programs as `ContinuousBatch` does, on vLLM's engine.

    Greedy ids are the model's own up to rounding; seeded ones come from vLLM's generator, so that they are the
    same from run to run here, but not those of the other backends. Repetition is penalised over the whole
    sequence there, where `Sampler` counts a stage's own tokens: it is refused, and so are beams, which the engine
    does not have.
    """

    def __init__(self, engine: Any, max_length: int, capacity: int, make_parameters: Any, make_prompt: Any) -> None:
        """`engine` has vLLM's `add_request`, `step`, `abort_request`; see `from_pretrained`."""
        self.engine = engine
        self.max_length = max_length
        self.capacity = capacity
        self._make_parameters = make_parameters  # vllm.SamplingParams
        self._make_prompt = make_prompt  # vllm.TokensPrompt
        self._numbers = count()

    @classmethod
    def from_pretrained(cls, folder: str | Path, capacity: int = 256, **engine_options: Any) -> VllmBatch:
        """The model in `folder`; options go to vLLM's engine (`dtype`, `tensor_parallel_size`, ...).

        Raises InputError if vLLM is not installed.
        """
        try:
            from vllm import EngineArgs, LLMEngine, SamplingParams, TokensPrompt
        except ModuleNotFoundError as error:
            raise InputError(
                f"the vLLM backend needs package vllm ({error}); pip install 'usdm[vllm]' on a machine with a GPU"
            ) from error
        arguments = EngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,  # ids in, ids out
            enable_prefix_caching=True,
            max_num_seqs=capacity,
            **engine_options,
        )
        engine = LLMEngine.from_engine_args(arguments)
        return cls(engine, engine.model_config.max_model_len, capacity, SamplingParams, TokensPrompt)

    def run(self, programs: Iterable[tuple[Key, StageProgram[Result]]]) -> Iterator[tuple[Key, Result | Exception]]:
        """Play programs to their ends, and yield each one's result as soon as it has one; see `ContinuousBatch.run`."""
        waiting = iter(programs)
        playing: dict[str, _Played] = {}  # by request
        exhausted = False
        try:
            while True:
                while not exhausted and len(playing) < self.capacity:
                    entry = next(waiting, None)
                    if entry is None:
                        exhausted = True
                        break
                    played = _Played(*entry, ids=[])
                    self._advance(played, None, playing)
                    if played.ended:
                        yield played.key, played.outcome
                if not playing:
                    return
                for output in self.engine.step():
                    if output.finished:
                        played = playing.pop(output.request_id)
                        self._advance(played, self._outcome(played, output.outputs), playing)
                        if played.ended:
                            yield played.key, played.outcome
        finally:
            if playing:
                self.engine.abort_request([*playing])
            for played in playing.values():
                played.program.close()

    def _advance(self, played: _Played, outcome: Generated | InputError | None, playing: dict[str, _Played]) -> None:
        """Send what was written, or why nothing was; request the next stage that can begin, or end."""
        error = outcome if isinstance(outcome, InputError) else None
        generated = outcome if isinstance(outcome, Generated) else None
        try:
            while True:
                if error is not None:
                    request = played.program.throw(error)
                else:
                    request = next(played.program) if generated is None else played.program.send(generated)
                try:
                    name = self._request(played, request)
                except InputError as wrong:
                    error = wrong
                else:
                    playing[name] = played
                    return
        except StopIteration as end:
            played.ended, played.outcome = True, end.value
        except InputError as wrong:
            played.ended, played.outcome = True, wrong

    def _request(self, played: _Played, request: GenerateRequest) -> str:
        """Ask the engine for one stage: -> the request's name."""
        check_room(len(played.ids) + len(request.ids), self.max_length)
        played.ids.extend(request.ids)
        if not played.ids:
            raise InputError("there is nothing to continue: the program's first ids are empty")
        check_room(len(played.ids) + 1, self.max_length)
        check_sampling(sampling := request.sampling)
        if sampling.repetition_penalty != 1.0:
            raise InputError(
                f"repetition_penalty={sampling.repetition_penalty}: vLLM counts the prompt's tokens too; leave it at 1"
            )
        if sampling.num_beams > 1:
            raise InputError(f"num_beams={sampling.num_beams}: vLLM's engine follows one text alone; set it to 1")
        parameters = self._make_parameters(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=min(sampling.max_new_tokens, self.max_length - len(played.ids)),
            allowed_token_ids=torch.nonzero(request.allowed)[:, 0].tolist(),
            stop_token_ids=sorted(request.stop_ids),
            ignore_eos=True,  # a stage's own stop ids are all that stops it
            detokenize=False,
        )
        played.request = request
        name = str(next(self._numbers))
        try:
            self.engine.add_request(name, self._make_prompt(prompt_token_ids=[*played.ids]), parameters)
        except ValueError as error:
            raise InputError(f"vLLM refuses a request of {len(played.ids)} ids: {error}") from error
        return name

    def _outcome(self, played: _Played, completions: Sequence[Any]) -> Generated | InputError:
        """What a finished request has written; an error if the engine gave it up."""
        reason = completions[0].finish_reason if completions else None
        if reason not in FINISHED:
            return InputError(f"vLLM gave a request of {len(played.ids)} ids up ({reason}): its log says why")
        return self._generated(played, completions[0])

    def _generated(self, played: _Played, completion: Any) -> Generated:
        written = list(completion.token_ids)
        stopped = completion.finish_reason == "stop"
        if stopped and written[-1:] and written[-1] in played.request.stop_ids:
            del written[-1]  # vLLM gives the stop id too
        played.ids.extend(written)
        return Generated(written, stopped)


@dataclass(eq=False)
class _Played(Generic[Key, Result]):
    """One program, as far as it has come."""

    key: Key
    program: StageProgram[Result]
    ids: list[int]
    request: Any = None
    ended: bool = False
    outcome: Any = None  # the program's result, or its error
