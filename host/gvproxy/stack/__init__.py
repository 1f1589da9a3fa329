"""The gateway's side of the virtual network: frames in, frames out, and what IP makes of them.

Read `stack` first.  Sans-IO: ports hand frames in with the time, and are handed frames to send;
flows and services register for what is theirs.  Nothing here knows a socket, a loop or a clock.
"""
