"""Conversations brought from elsewhere: taken in, stored, searched, put into prompts, listed, deleted.

They stand in the same tables as what was said here, and the same search finds both (`app.memory`). This package owns
what only they have: the snapshots they come as, and the platforms they come from.
"""
