"""The numbered SQL migrations, ``NNNN_name.sql``, run by `app.database.migrate`. A released one never changes."""
