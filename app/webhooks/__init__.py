"""Webhooks: addresses that are told of what happens in an account, by signed requests (Standard Webhooks 1.0).

`store` keeps the webhooks and their secrets, `deliveries` what is on its way to each and what became of it, `queue` who
sends next. `workers/notify` makes deliveries of events, `workers/deliver` sends them.
"""
