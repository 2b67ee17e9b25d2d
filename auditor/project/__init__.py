"""A project: one folder with artefacts, their catalogue, run records and the audit log; one writer at a time."""

from auditor.project.catalogue import Artefact, RunRecord
from auditor.project.project import Project

__all__ = ["Artefact", "Project", "RunRecord"]
