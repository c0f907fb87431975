"""Everything runs on the CPU, on machines with GPUs as well; `tests/gpu` names its device itself."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"
