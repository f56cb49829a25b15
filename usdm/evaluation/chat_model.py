"""Any chat model of the hub, or of a folder: the text model of a cascade, and a judge of open replies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from usdm.asr.hub import digest_of, place, read_pretrained, readable_name
from usdm.types import InputError, Turn

Message = dict[str, str]


class ChatModel:
    """Greedy replies under the model's own chat template.

    Args:
        name: on the hub, or a folder.
        system: what it is told first; None says nothing.
        max_new_tokens: of a reply.
        dtype: name of a torch type.

    Raises:
        InputError: it cannot be had or read, or has no chat template.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        system: str | None = None,
        max_new_tokens: int = 128,
    ) -> None:
        self._tokenizer = read_pretrained(AutoTokenizer, name, revision, padding_side="left")
        if self._tokenizer.chat_template is None:
            raise InputError(f"{name} has no chat template: give a model that was tuned for chats")
        weights = {"dtype": getattr(torch, dtype), "use_safetensors": True}
        self._model = read_pretrained(AutoModelForCausalLM, name, revision, **weights)
        self._model.to(place(device)).eval()
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self._max_new_tokens = max_new_tokens
        self.name = readable_name(name, digest_of(name, revision))
        self.identity = f"chat {digest_of(name, revision)} {dtype} {system!r} {max_new_tokens}"

    def __call__(self, dialogs: Sequence[Sequence[Turn]]) -> list[str]:
        return self.answers([[*self._first, *map(_message, dialog)] for dialog in dialogs])

    @torch.inference_mode()
    def answers(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        """To messages with `role` and `content`, as chat templates take them."""
        prompts = [
            self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
        ]
        inputs = self._tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        ids = self._model.generate(
            **inputs.to(self._model.device),
            do_sample=False,
            max_new_tokens=self._max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = ids[:, inputs.input_ids.shape[1] :]
        return [text.strip() for text in self._tokenizer.batch_decode(new, skip_special_tokens=True)]


def _message(turn: Turn) -> Message:
    return {"role": "user" if turn.role == "user" else "assistant", "content": turn.text}
