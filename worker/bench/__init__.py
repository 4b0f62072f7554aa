"""Measurements, run by hand: `worker bench …`. Ratios within one run are what counts; machines differ."""
