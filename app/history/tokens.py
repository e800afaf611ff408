"""How many tokens a text has, by the cl100k_base encoding.

litellm brings the encoding's file along; tiktoken finds it by name in the directory that TIKTOKEN_CACHE_DIR names. So
nothing is downloaded, and litellm itself is not imported, which takes seconds. Loading takes half a second and 60 MB
and is done when the first text is counted; counting is to be called in a thread for anything long.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.history.snapshot import Snapshot

MOST = 100_000
"""Of a conversation; one that has more is rejected."""
NAME = "cl100k_base"
PIECE = 100_000
"""Characters encoded in one go: a run of one letter takes quadratic time within a go."""


@lru_cache(maxsize=1)
def _encoding() -> Any:
    spec = find_spec("litellm")
    if spec is not None and spec.origin is not None:
        place = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(place))  # noqa: TID251 - the only way to tell tiktoken
    return importlib.import_module("tiktoken").get_encoding(NAME)


def count(text: str) -> int:
    """Its tokens. What looks like a special token counts as the text it is."""
    encoding = _encoding()
    return sum(len(encoding.encode_ordinary(text[at : at + PIECE])) for at in range(0, len(text), PIECE))


def of_snapshot(snapshot: Snapshot) -> int:
    """Those of a conversation, or more than `MOST` as soon as there are more. Raises msgspec.ValidationError."""
    tokens = 0
    for said in snapshot:
        tokens += count(said.content)
        if tokens > MOST:
            break
    return tokens
