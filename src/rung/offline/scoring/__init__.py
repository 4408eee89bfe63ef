"""A registered version over a whole data set: read, prepared, answered and written at the same time, and resumable."""
