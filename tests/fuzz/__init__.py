"""`make fuzz`: bytes that nobody meant to send, for all that reads what a guest or a server says.

* `targets` has a module for each kind of input: `target(data)` raises where something is wrong, and
  `seeds()` gives valid traffic, made by the code that speaks it.  An input is a list of messages
  (`cases`), so that a mutation may repeat, leave out and exchange them.
* `network` is the stack that frames are given to, its guests and what the host does for them; one
  of the guests is `honest`.  `judge` compares what the stack makes of frames with `reading`, which
  has nothing of the stack's.  `recorder` writes traffic down, `attacks` are what a guest may think
  of.
* `mutation` makes inputs of seeds: bits, lengths, splices, truncations, repetitions.  Everything
  follows from a seed and a number, and a target may have checksums mended (`repair`).
* `budget` measures: no message may keep the loop busy for 50 ms.
* `__main__` gives targets their seeds, then mutations for a while, two targets at a time, and
  writes what fails to `regressions`, in hexadecimal; `test_fuzz.py` replays those files, and all
  seeds, with the other tests.

Among the seeds is what is amiss in one place: a check that is taken out of a parser makes one of
them fail at once, for no mutation gets two checksums and a length right by luck.

`make fuzz COVERAGE=1 TARGET=frames` has atheris choose what to mutate, by what the code does with
it.  What it finds is written to the same place and needs no atheris to be repeated.
"""
