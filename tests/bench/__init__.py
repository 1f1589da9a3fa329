"""`make bench`: this project beside plain loopback, slirp4netns and pasta, in one run.

`ways` sets up the ways from a client to a server, `loads` measures one figure on one of them,
`report` makes a table of what `__main__` has gathered, and says which targets are met.

`loss` is `make bench-loss`: TCP over a bad cable, ours against two kernels.
"""
