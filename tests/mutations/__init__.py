"""`make mutations`: does the suite notice when the TCP engine is broken?

`table.diff` lists what is broken, `table` reads it, and `__main__` runs the tests on a copy of the
tree for each.  What survives needs a test, or an argument in the list.
"""
