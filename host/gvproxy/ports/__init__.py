"""The guests' ends of their links: transports and framings, queues, and the way in.

`stream` is a port on a byte stream; `reception` takes what comes to a listening socket and finds
out what it wants.
"""
