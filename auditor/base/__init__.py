"""What every room stands on: errors, config, events, digests, paths, the closed network."""
