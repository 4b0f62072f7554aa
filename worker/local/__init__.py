"""Everything on one machine, for a laptop: `worker dev`, `worker demo` and `worker bench`."""
