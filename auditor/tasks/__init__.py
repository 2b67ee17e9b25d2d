"""The verbs that a person starts: each opens artefacts, calls one engine function and registers what comes out."""

from auditor.tasks.task import Run, Task, get_task, run_task, task, tasks

__all__ = ["Run", "Task", "get_task", "run_task", "task", "tasks"]
