"""`make floods`: what a second guest notices while one guest floods the daemon.

`frames` builds what a guest sends by hand, `guests` are guests of that kind, `attacks` the floods,
each of which `attacker` runs as a program.  `servers` and `second` are programs as well: what the
second guest talks to, and what it does.  `watched` runs the daemon and times its loop; `report`
makes a table of what `__main__` has gathered.

An attacker costs little itself: its frames are made beforehand and sent as fast as its socket takes
them, again and again for as long as the second guest is measured.
"""
