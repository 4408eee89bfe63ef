"""Statistics that stay right when they are looked at all the time: sequential tests, intervals, simulation.

Pure functions of counts: no I/O, no clock, randomness only by a generator that is passed in. numpy and scipy are
imported when a function runs, so importing this costs nothing. `sequential` compares means and rates, `errors` rare
failures, `quantiles` latencies, `assignment` the split itself, `betting` paired losses; `guards` runs a `Rule`;
`intervals` is for figures that are looked at once; `simulate` says how often each is wrong.
"""
