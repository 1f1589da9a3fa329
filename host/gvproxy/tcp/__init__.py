"""The TCP state machine, and nothing else: no sockets, no loop, no clock, no randomness.

Read `connection` first: it holds a connection's state and the seams to what is around it.  Then
`input` (RFC 9293 §3.10.7 in its order), `output`, `timers`.  `prediction` is the short path for the
segment that brings no surprise; a connection behaves the same without it.

Sequence numbers are unwrapped once, where a segment comes in (`seq`): inside, they are plain
integers that only grow, and plain comparisons are right.
"""
