"""Reprise: a Server-Sent-Events chat gateway built around asynchronous messages."""
