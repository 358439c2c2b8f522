"""MATLAB 5 files, read by SciPy: damaged ones are one line."""

from pathlib import Path

import numpy as np

from vitjax.errors import UserError

_MAT_5 = b"MATLAB 5.0 MAT-file"


def read_mat(path: Path, *variables: str) -> dict[str, np.ndarray]:
    """Variables of a MATLAB 5 file, without dimensions of one; records where it has arrays of structs.

    Raises:
        UserError: the file is missing, of another version, damaged, or holds no such variable.
    """
    from scipy.io import loadmat  # takes a while, and few sets need it

    try:
        with path.open("rb") as file:
            if file.read(len(_MAT_5)) != _MAT_5:
                raise UserError("it is no MATLAB 5 file: other versions are not read")
            file.seek(0)
            found = loadmat(file, squeeze_me=True, variable_names=list(variables))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is the download whole?") from None
    except Exception as error:  # noqa: BLE001  (SciPy raises many kinds for damaged files)
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:120]})") from None
    for name in variables:
        if name not in found:
            raise UserError(f"{path} holds no {name!r}; is it the published file?")
    return {name: np.atleast_1d(found[name]) for name in variables}
