"""What each type of integration does in each of its steps.

- `chat`: an export of a chat platform, or conversations sent inline. `file`: documents. `social`: an archive or an
  account of a social platform. `api`: records pulled from an address, or sent inline.
- `storing`: what they share: a conversation is stored and its memories are drawn, a text is remembered as it is.

A step is a function of the job. It may be begun again by another worker at any time: what it does as a whole it does
anew, items that are done it does not see.
"""
