"""Trained weights as a file that `load_weights`, timm and others read."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from vitjax.system.files import replacing
from vitjax.weights.rename import to_name
from vitjax.weights.scan_params import unstack_blocks


def write_weights(
    path: str | os.PathLike[str], variables: Mapping[str, Any], notes: Mapping[str, str]
) -> None:
    """Writes variables as safetensors, in timm's names and torch's shapes; the file appears whole.

    Args:
        path: ends in .safetensors.
        variables: {"params": ...} and "batch_stats" where there are any: arrays on the host. What a metric
            loss learns beside the model ("metric") is left out.
        notes: text kept in the file's header.
    """
    params = {name: tree for name, tree in variables["params"].items() if name != "metric"}
    variables = {**variables, "params": params}
    if "blocks" in variables["params"]:
        variables = unstack_blocks(variables)
    state = {}
    for tree in variables.values():
        for keys, value in flatten_dict(dict(tree)).items():
            array = np.asarray(value)
            if keys[-1] == "kernel":
                array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
            state[to_name(keys)] = np.asarray(array, order="C")  # a number stays one
    with replacing(path, "wb") as file:
        file.write(safetensors.numpy.save(state, dict(notes)))
