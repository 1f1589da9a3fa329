"""A laboratory: namespaces that stand for machines, and the real programs running in them.

Read `network` first: it puts a host, its guests and a world outside together out of `Namespace` and
`Process`; `cabled` puts a bad cable between two of them.  The system tests, `tests.demo` and
`tests.bench` are built on it.  Everything made here is owned by whoever made it, and gone when that
is closed; nothing outlives this process, and no traffic leaves the namespaces and the loopback.
"""
