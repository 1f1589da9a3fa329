"""The guests' TCP connections, datagrams and pings, joined to the host's own sockets.

One module a protocol; `destinations` says which host address stands behind one that a guest names.
Back-pressure lives here: what one side does not take is not read from the other.
"""
