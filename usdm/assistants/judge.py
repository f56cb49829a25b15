"""Judges of open replies: a server that speaks OpenAI's protocol, a model of the hub, or nobody."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Protocol

from usdm.assistants.rubrics import Prompt
from usdm.evaluation.chat_model import ChatModel, Message
from usdm.types import InputError

TRIES = 4
BUSY = (408, 409, 429, 500, 502, 503, 504)


class Judge(Protocol):
    """Answers prompts. `name` says which one, with its version, wherever its figures stand; None judges nothing."""

    name: str | None
    at_once: int  # prompts that it may be given at the same time

    def __call__(self, prompt: Prompt) -> str:
        """Its answer. Raises InputError if none is to be had."""
        ...


class NoJudge:
    """What only a judge can score is then absent, and is said to be."""

    name = None
    at_once = 1

    def __call__(self, prompt: Prompt) -> str:
        raise InputError("judge=none judges nothing: choose judge=openai or judge=hub")


class OpenAIJudge:
    """A model behind an address of OpenAI's protocol (`/chat/completions`), such as vLLM's or llama.cpp's.

    Args:
        address: up to `/v1`.
        model: as the server calls it.
        key_variable: environment variable that holds the server's key; None: it wants none.
        timeout: seconds for one answer.
        at_once: prompts that the server is given at the same time.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        key_variable: str | None = None,
        max_tokens: int = 512,
        timeout: float = 120.0,
        at_once: int = 8,
    ) -> None:
        self.name: str | None = model
        self.at_once = at_once
        self._url = f"{address.rstrip('/')}/chat/completions"
        self._max_tokens, self._timeout = max_tokens, timeout
        self._headers = {"Content-Type": "application/json"}
        if key_variable is not None:
            if not os.environ.get(key_variable):
                raise InputError(f"judge.key_variable={key_variable}: the variable is not set; export it with the key")
            self._headers["Authorization"] = f"Bearer {os.environ[key_variable]}"

    def __call__(self, prompt: Prompt) -> str:
        """Greedy; asked again while the server is busy. Raises InputError if it does not answer."""
        body = {
            "model": self.name,
            "messages": messages(prompt),
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        for number in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"])
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or number == TRIES - 1:
                    raise InputError(
                        f"{self._url} answers {error.code} {error.reason}: check judge.model and key"
                    ) from error
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                if number == TRIES - 1:
                    raise InputError(f"{self._url} gives no answer ({error!r}): check judge.address") from error
            time.sleep(2**number)
        raise AssertionError("unreachable")


class HubJudge:
    """A chat model of the hub, greedy.

    Args:
        model: name on the hub, or a folder, with a chat template.
        revision: commit, branch or tag on the hub.

    Raises:
        InputError: it cannot be had or read, or has no chat template.
    """

    at_once = 1

    def __init__(self, model: str, *, revision: str | None = None, device: str = "cpu", max_tokens: int = 128) -> None:
        self._model = ChatModel(model, revision, device, max_new_tokens=max_tokens)
        self.name: str | None = self._model.name

    def __call__(self, prompt: Prompt) -> str:
        (answer,) = self._model.answers([messages(prompt)])
        return answer


def messages(prompt: Prompt) -> list[Message]:
    """As chat models take them."""
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
