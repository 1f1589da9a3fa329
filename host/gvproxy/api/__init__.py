"""The HTTP API: `app` has the handlers, `stats` shapes the counters.

Nothing is decided here; an error's status is looked up in `app`.
"""
