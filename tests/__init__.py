"""The tests; a package so that a foreign one called tests cannot shadow it."""
