"""Fast exact pieces of the sparse training step on a CPU; each is tested against its naive formula."""
