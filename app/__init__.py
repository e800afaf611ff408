"""Reprise: a Server-Sent-Events chat gateway built around asynchronous messages.

What runs
---------
``reprise run`` (`supervise`) starts the embedded Redis and PostgreSQL (`engines/`) and three kinds of process, which
meet only in those two:

- **web** (`serve`, `web/`): parses, authorises, answers, streams. Knows no model.
- **generate** (`work`, `workers/generate`): asks models (`llm/`) and writes every event of their answers.
- **background** (`work`, `workers/loop`): consumes the feed of finished messages and remembers them
  (`workers/remember`), stores what is brought from elsewhere (`workers/ingest`, `workers/integrate`), has a model read
  conversations (`workers/extraction`), embeds and purges; tells feeds and webhooks (`workers/notify`,
  `workers/deliver`).

What is stored
--------------
Redis: messages, their logs, queues and feeds; every key in `redis_keys`, every step that changes one in `lua/`.
PostgreSQL: accounts, keys and secrets, all that is remembered (`memory/`), what waits to be (`history/uploads`),
integrations with their events (`integrations/store`), what is to be told (`outbox`), and webhooks with their deliveries
(`webhooks/`); every table in `migrations/`.

The path of one message
-----------------------
1. ``POST /v1/messages/async`` → `web/messages` checks the body (`web/initiate`) and calls `chat/lifecycle.create`:
   the message is written and put in its account's queue (`chat/queue`), and a worker is woken (`chat/control`), by one
   script where one partition holds both, else by two.
2. `workers/generate` takes it from the queue, claimed under a random token, likewise, and opens its model.
3. The model's deltas (`llm/types`) become content-block events in `chat/events.Assembler`; `chat/writer` carries the
   events of all messages of the process to Redis in one pipeline. Each event is one entry of the message's stream,
   numbered densely: its number is the SSE ``id:`` and the cursor.
4. ``GET …/stream`` → `web/observe` → `chat/fanout`: one tail reader per process reads each event once, frames it once,
   and every observer takes it from there with a cursor of its own.
5. The last event, the final state, the retention and the entry in the feed of finished messages are one script.
   Cancelling (`lifecycle.cancel`) and deleting are scripts too: the first to finish wins.
6. `workers/remember` stores the message's turns and what is drawn from them in one transaction with its done mark
   (`memory/remembered`), and has the status tell of it. Its retention begins then; when that is over, status and replay
   (`web/find`, `chat/past`) answer from the done mark. A later message may recall it (`workers/recalling`).
7. `chat/liveness` runs in every process: workers found dead lose their claims, their messages start a new attempt;
   deadlines end messages; what died between two scripts is finished.

What comes from elsewhere
-------------------------
A conversation sent to ``POST /api/chat-history/ingest/custom-online`` (`web/history`) waits as a snapshot
(`history/uploads`); `workers/ingest` makes turns of it (`history/store`), in the same tables and the same search as
those of messages, and where their user wants that draws memories from them (`memory/drawing`). Exports, documents,
social accounts and records of any API are integrations: received by `web/integration_intake` or ``reprise import``,
kept with all that becomes of them in `integrations/store`, taken through the steps of their type (`integrations/kinds`)
by `workers/integrate`, watched through `integrations/watch` and `web/integration_events`. Addresses that strangers name
are asked through `outbound` alone.

Who is told
-----------
Whatever PostgreSQL makes true writes what is to be told of it into the `outbox`, with the same commit. `workers/notify`
takes that, and the ends of messages as a second consumer group, tells the account's feed and makes deliveries for its
webhooks; `workers/deliver` signs and sends them until they are taken.
"""
