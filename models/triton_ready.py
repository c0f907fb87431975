"""This machine in; whether kernels written in triton can be started here, or what is missing, out."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


def triton_obstacle() -> str | None:
    """Why triton's kernels do not run here; None where they do.

    What starts a kernel is compiled on first use, by a C compiler and with Python's headers: without them a run would
    end at its first kernel.
    """
    if importlib.util.find_spec("triton") is None:
        return "needs triton, which is not installed; install a CUDA build of torch"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "needs a C compiler to start triton's kernels; install gcc, or name one in CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"]) / "Python.h"
    if not header.is_file():
        return f"needs {header} to start triton's kernels; install Python's headers (python3-dev)"
    return None
