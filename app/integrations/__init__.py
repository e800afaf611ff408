"""What is brought in from elsewhere: documents, social archives and chat exports become text with its origin.

The readers are pure: bytes in, structs out, no network and no database. What of one input cannot be read is a
`types.Problem` and the rest goes on; an input of which nothing can be read is `types.Unreadable`.
"""
