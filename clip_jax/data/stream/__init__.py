"""The input stream: the batch of step s is a pure function of (data, seed, s).

Nothing is carried from batch to batch. A position in the stream (row of a batch, batch of the run)
names its record through a random-access shuffle, and seeds the randomness of its own decoding, so
that a run can start at any step, on any number of processes, with any number of workers, and sees
the same rows in the same order.
"""
