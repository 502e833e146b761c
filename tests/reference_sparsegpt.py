"""SparseGPT straight from the paper, in float64: every inverse is taken anew, and there is no Cholesky factor in it."""

from __future__ import annotations

import numpy as np


def reference(weight, hessian, goal, block=128):
    """Weights and mask (true: kept). `hessian` is damped; equal scores go in row-major order."""
    weight, hessian = np.array(weight, dtype=np.float64), np.asarray(hessian, dtype=np.float64)
    rows, columns = weight.shape
    keep = np.ones((rows, columns), dtype=bool)
    if isinstance(goal, str):
        zeros, group = map(int, goal.split(":"))
        block = max(group, block // group * group)
    # F_j, the inverse of the Hessian of column j and those after it (equation 3): its first row steers column j.
    inverses = [np.linalg.inv(hessian[j:, j:])[0] for j in range(columns)]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        if not isinstance(goal, str):
            scores = np.stack([weight[:, j] ** 2 / inverses[j][0] for j in range(start, stop)], axis=1)
            gone = np.argsort(scores, axis=None, kind="stable")[: int(goal * scores.size + 0.5)]
            keep[:, start:stop] = ~np.isin(np.arange(scores.size), gone).reshape(scores.shape)
        for j in range(start, stop):
            if isinstance(goal, str) and j % group == 0:
                scores = np.stack([weight[:, i] ** 2 / inverses[i][0] for i in range(j, j + group)], axis=1)
                order = np.argsort(scores, axis=1, kind="stable")[:, :zeros]
                np.put_along_axis(keep[:, j : j + group], order, values=False, axis=1)
            error = np.where(keep[:, j], 0.0, weight[:, j]) / inverses[j][0]
            weight[:, j:] -= np.outer(error, inverses[j])
            weight[~keep[:, j], j] = 0.0
    return weight, keep


def error_of(before, after, hessian):
    """tr(dW H dW^T)."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return float(np.einsum("rc,cd,rd->", change, np.asarray(hessian, dtype=np.float64), change))
