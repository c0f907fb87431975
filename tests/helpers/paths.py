"""Where tests find data that is not part of the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
DRIVELM_SAMPLE = SHARED / "data" / "drivelm_sample"
DRIVELM_EVAL_CASES = SHARED / "data" / "drivelm_eval_cases"

needs_drivelm_sample = pytest.mark.skipif(
    not DRIVELM_SAMPLE.is_dir(), reason="the real DriveLM sample is not beside the repository"
)
needs_drivelm_eval_cases = pytest.mark.skipif(
    not DRIVELM_EVAL_CASES.is_dir(), reason="the DriveLM evaluation cases are not beside the repository"
)
