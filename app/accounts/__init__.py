"""Accounts, API keys and stream tokens: who is calling, and what they may do.

``service`` answers that and owns the tables; ``keyring`` is its cache; ``tokens`` seals what travels in a URL;
``root`` makes the first key.
"""

from app.accounts.keyring import ALL_SCOPES, Caller
from app.accounts.root import DEFAULT_ACCOUNT, ensure_root_key
from app.accounts.service import Account, Accounts, ApiKey, TokenGrant

__all__ = [
    "ALL_SCOPES",
    "DEFAULT_ACCOUNT",
    "Account",
    "Accounts",
    "ApiKey",
    "Caller",
    "TokenGrant",
    "ensure_root_key",
]
