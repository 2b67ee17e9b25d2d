"""Auditor: offline interpretability audits of neural networks."""

__version__ = "0.1.0"
