"""Every Redis key: its name, its type, who writes it, how long it lives.

A message's keys live in the partition of (account, message id), an account's queue, leases, list and feed in the
partition of the account. A partition is a hash tag, so everything in it shares one Redis Cluster slot and one Lua
script can touch it. Tags are searched for so that partition i lands in the i-th equal band of the 16,384 slots: the
obvious tags ``{0}`` … ``{15}`` leave masters without a key.

In the names below ``M`` is ``<account>/<message id>``, ``A`` the account, ``W`` a worker's name, ``G`` a
consumer group, ``T`` a claim token.

======================  ======  ==================  =====================================================
message partition       type    written by          holds, and for how long
======================  ======  ==================  =====================================================
``m:M``                 hash    chat/lifecycle      state of the message; retention after it has settled
``l:M``                 stream  chat/lifecycle      its events, ids ``<seq>-0``; expires with ``m:M``
``q:M``                 string  chat/lifecycle      the request as JSON; expires with ``m:M``
``t:M``                 string  chat/lifecycle      tombstone of a deleted message; its retention
``i:M``                 hash    chat/lifecycle      Idempotency-Key twin: body hash, answer; 24 h
``due``                 zset    chat/lifecycle      unfinished messages by deadline (ms)
``check``               zset    chat/lifecycle      unowned messages by the time to look whether they queue
``unseen``              zset    chat/lifecycle      messages to cancel unless observed by then (ms)
``owners``              set     chat/lifecycle      workers that own a message here
``own:W``               set     chat/lifecycle      the messages that worker owns
``took:T``              string  chat/lifecycle      claim token that has taken messages; half a minute
``alive:W``             string  chat/liveness       a worker's liveness; 5 s, renewed every 1.5 s
``sweep``               string  chat/liveness       one sweeper at a time; under a second
``workers``             zset    chat/liveness       workers of every kind by last beat (first partition only)
``finished``            stream  chat/lifecycle      feed of finished messages; until every group settled
``groups``              set     chat/groups         consumer groups of ``finished``
``claims:G``            hash    chat/groups         entry id → claim token and number of deliveries
``due:G``               zset    chat/groups         delivered entries by the end (ms) of their lease or pause
``dead``                stream  chat/groups         dead letters; 30 days
``wake:R``              stream  tail                one entry that wakes tail reader R; a minute
======================  ======  ==================  =====================================================

======================  ======  ==================  =====================================================
account partition       type    written by          holds, and for how long
======================  ======  ==================  =====================================================
``ready``               zset    chat/queue          accounts that have waiting work and a free slot, by turn
``turn``                string  chat/queue          the round-robin turn counter
``wait:A``              zset    chat/queue          the account's waiting messages, by time of creation
``run:A``               set     chat/queue          messages that hold a running slot
``leases``              zset    chat/queue          running slots of all accounts, by lease expiry (ms)
``limit:A``             hash    chat/queue          the account's limits as last seen
``list:A``              zset    chat/queue          the account's messages, newest last; pruned by age
``ended:A``             zset    chat/queue          messages whose end the account was told of; a minute
``feed:A``              stream  feeds               the account's events; 24 h
``rate:C``              string  limits              requests of a class, user and window; the window
``told:A``              zset    workers/notify      ids of events that were posted there by id; 24 h
======================  ======  ==================  =====================================================

Global: ``meta`` (hash: partitions, version). Pub/sub channels: ``wake`` (a message can be claimed), ``ctl:W`` (a
worker is told that a message is no longer its own), ``done`` (an entry was added to a ``finished`` feed). Channels
only save time: whatever they say is also found by looking.
"""

from __future__ import annotations

import binascii
import hashlib

_SLOTS = 16_384


def partition_tags(count: int) -> list[str]:
    """``count`` hash tags, the i-th in the i-th equal band of the cluster's slots."""
    tags: dict[int, str] = {}
    candidate = 0
    while len(tags) < count:
        text = f"p{candidate}"
        band = binascii.crc_hqx(text.encode(), 0) % _SLOTS * count // _SLOTS
        tags.setdefault(band, text)
        candidate += 1
    return [tags[i] for i in range(count)]


class Keys:
    """Key names under one prefix and number of partitions."""

    def __init__(self, prefix: str, partitions: int = 1) -> None:
        self.prefix = prefix
        self.tags = partition_tags(partitions)
        self._bases = [f"{prefix}:{{{tag}}}:" for tag in self.tags]

    def _index(self, text: str) -> int:
        if len(self._bases) == 1:
            return 0
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) % len(self._bases)

    @property
    def bases(self) -> list[str]:
        """The key prefix of each partition, hash tag included: the first KEYS entry of every script."""
        return self._bases

    def message_base(self, account: str, message_id: str) -> str:
        """The prefix of the partition that holds this message."""
        return self._bases[self._index(f"{account}/{message_id}")]

    def account_base(self, account: str) -> str:
        """The prefix of the partition that holds this account's queue, list and feed."""
        return self._bases[self._index(account)]

    def message(self, account: str, message_id: str) -> str:
        return f"{self.message_base(account, message_id)}m:{account}/{message_id}"

    def log(self, account: str, message_id: str) -> str:
        return f"{self.message_base(account, message_id)}l:{account}/{message_id}"

    def request(self, account: str, message_id: str) -> str:
        return f"{self.message_base(account, message_id)}q:{account}/{message_id}"

    def tombstone(self, account: str, message_id: str) -> str:
        return f"{self.message_base(account, message_id)}t:{account}/{message_id}"

    def feed(self, account: str) -> str:
        return f"{self.account_base(account)}feed:{account}"

    def meta(self) -> str:
        return f"{self.prefix}:meta"

    def channel(self, name: str) -> str:
        """A pub/sub channel: ``wake``, ``done``, ``uploads`` or ``ctl:<worker>``."""
        return f"{self.prefix}:{name}"
