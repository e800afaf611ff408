"""Social data exports: the archives LinkedIn, X and Reddit give people of their own data become items.

`read.read_archive` reads one; a module per platform knows its files; `rows` reads their tables and times.
`api` brings the same items by access token.
"""
