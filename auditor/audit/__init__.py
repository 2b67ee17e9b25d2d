"""Cases, the ladder of claims, reports, signed bundles and their verification; needs no torch, no h5py and no Qt.

`auditor.audit.verify(path)` gives the verdict on a bundle. The rest lies in the submodules: case (the models),
evidence, collect (`add_evidence`), history (an open case with undo), ladder, protocols, report, bundle, signing.
"""

from auditor.audit.verify import Check, Verdict, verify

__all__ = ["Check", "Verdict", "verify"]
