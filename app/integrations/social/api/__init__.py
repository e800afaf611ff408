"""Social accounts by access token: the APIs of LinkedIn, X and Reddit, page by page.

`open.open_api` opens one; a module per platform knows its paths, paging and fields; `ask` waits, retries and refuses.
What comes out are the items the archives give, under the same ids: what is brought both ways is stored once.
"""
