"""The steps of a feed's pipeline: each a plain function of record batches, and a PTransform over it."""
