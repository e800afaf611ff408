"""What is remembered: conversations word for word, memories drawn from them, and the search over both.

- `types`: the structs the modules share, and the vocabulary (types, categories).
- `embedding`: texts to vectors: MiniLM by numpy, or any embedding model litellm knows.
- `words`: texts to terms, windows and pieces.
- `index`: writes what search reads (units, postings, vectors), in the caller's transaction.
- `search`: BM25 over windows and vectors, fused (`ranking`); `rerank` its second stage.
- `conversations`: turns stored word for word, once.
- `memories`: memories with validity, history, deletion, backup and restore; its steps are in `adding`, `listing` and
  `removing`, its rows in `records`.
- `rules`: memories drawn from turns without a language model: `sentences` in the speaker's own words that are
  `statements`, with their `times`, `categories`, and the `slots` by which one supersedes another.
  `drawing` does it in the storing transaction.
- `extract`: memories drawn from turns by a language model, which `asking` asks.
- `intake`: memories made on request: stored, drawn and answered at once.
- `recall`: memories put before a model's eyes, as quotations.
- `profile`: a person's bio, insights and traits, made from memories. `bio` puts their sentences together, told about
  them by `person`; `bio_writer` asks a model for it; `insights` counts; `profile_data` reads.
"""
