"""Long work in background threads, in lanes; knows nothing of windows."""

from auditor.jobs.runner import Job, Runner

__all__ = ["Job", "Runner"]
