"""The tokenizer of a folder that this package wrote, read without `transformers`, which takes a second to import.

There `tokenizer.json` holds every token that there is. Folders by others may keep some of it in further files, and are
for `transformers` to read (see `usdm.tokens.vocabulary.read_tokenizer`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from usdm.types import InputError

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
OTHER_FILES = ("special_tokens_map.json", "chat_template.jinja")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTED = ("extra_special_tokens", "additional_special_tokens")


class StoredTokenizer:
    """Of `PreTrainedTokenizerFast` what this package uses, under the same names."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: their contents by name, `tokenizer.json` and `tokenizer_config.json` among them."""
        self._files = files
        self.backend_tokenizer = Tokenizer.from_str(files[TOKENIZER_FILE])
        settings: dict[str, Any] = json.loads(files[SETTINGS_FILE])
        self._named = {name: _content(settings[name]) for name in NAMED if settings.get(name) is not None}
        self._listed = [_content(token) for name in LISTED for token in settings.get(name) or ()]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> StoredTokenizer:
        """Raises InputError if a file is missing or damaged."""
        folder = Path(folder)
        try:
            files = {name: (folder / name).read_text(encoding="utf-8") for name in (TOKENIZER_FILE, SETTINGS_FILE)}
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: no such file; give the folder of a fast tokenizer") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{folder}: its tokenizer is damaged ({error}); copy or download it again") from error
        for name in OTHER_FILES:
            if (folder / name).is_file():
                files[name] = (folder / name).read_text(encoding="utf-8")
        try:
            return cls(files)
        except Exception as error:  # tokenizers has no narrower one
            raise InputError(f"{folder}: its tokenizer is damaged ({error}); copy or download it again") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files as they were read."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in self._files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")

    @property
    def eos_token(self) -> str | None:
        return self._named.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id("unk_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id("pad_token")

    @property
    def all_special_ids(self) -> list[int]:
        """Of the tokens that have a role."""
        ids = map(self.backend_tokenizer.token_to_id, [*self._named.values(), *self._listed])
        return [id_ for id_ in ids if id_ is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        added: dict[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def get_vocab(self) -> dict[str, int]:
        ids: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return ids

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        tokens = map(self.backend_tokenizer.id_to_token, ids)
        return [token for token in tokens if token is not None]

    def _id(self, name: str) -> int | None:
        token = self._named.get(name)
        id_: int | None = None if token is None else self.backend_tokenizer.token_to_id(token)
        return id_


def _content(token: str | Mapping[str, Any]) -> str:
    """Of a token that is written with its settings, or without."""
    return token if isinstance(token, str) else token["content"]
