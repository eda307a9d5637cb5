"""What `c51_compiled.py` computes, as machine code by numba: an MLP's passes, C51's target and gradient, Adam.

A batch lies in columns, (units, B): the inner loops then run over neighbours in memory, which become vector
instructions, and neither relu nor softmax needs a sum across. `np.exp` stays outside: numpy's is vectorised.
Functions are compiled at their first call for each type of number, and kept on disk (NUMBA_CACHE_DIR says where).

Legend: B batch, A actions, K atoms; sizes = (inputs, widths of the hidden layers, A K); values, grads = the flat
vectors (P,); rows = x_0, x_1, ..., x_L, logits below each other, (sum of sizes, B).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


def _compiled(*freedoms: str) -> Any:
    """As IEEE has it, NaN and infinity included, but that a product may be added unrounded; and further freedoms."""
    return numba.njit(cache=True, error_model="numpy", fastmath={"contract", *freedoms})


@_compiled()
def add_product(a, b, c):  # type: ignore[no-untyped-def]
    """c (M, N) += a (M, K) b (K, N), in blocks of four rows by four terms that stay in registers."""
    count, terms = a.shape
    whole, whole_terms = count - count % 4, terms - terms % 4
    for i in range(0, whole, 4):
        for k in range(0, whole_terms, 4):
            p0, p1, p2, p3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            q0, q1, q2, q3 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
            r0, r1, r2, r3 = a[i + 2, k], a[i + 2, k + 1], a[i + 2, k + 2], a[i + 2, k + 3]
            s0, s1, s2, s3 = a[i + 3, k], a[i + 3, k + 1], a[i + 3, k + 2], a[i + 3, k + 3]
            for j in range(b.shape[1]):
                b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                c[i, j] += p0 * b0 + p1 * b1 + p2 * b2 + p3 * b3
                c[i + 1, j] += q0 * b0 + q1 * b1 + q2 * b2 + q3 * b3
                c[i + 2, j] += r0 * b0 + r1 * b1 + r2 * b2 + r3 * b3
                c[i + 3, j] += s0 * b0 + s1 * b1 + s2 * b2 + s3 * b3
    for i in range(count):
        for k in range(whole_terms if i < whole else 0, terms):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


@_compiled()
def forward(values, sizes, obs):  # type: ignore[no-untyped-def]
    """Observations (B, inputs) -> rows."""
    rows = np.empty((sizes.sum(), len(obs)), values.dtype)
    rows[: sizes[0]] = obs.T
    start = top = 0
    for i in range(len(sizes) - 1):
        inputs, outputs = sizes[i], sizes[i + 1]
        bias = start + inputs * outputs
        middle = top + inputs
        y = rows[middle : middle + outputs]
        for unit in range(outputs):
            y[unit] = values[bias + unit]
        add_product(values[start:bias].reshape(outputs, inputs), rows[top:middle], y)
        if i < len(sizes) - 2:
            for unit in range(outputs):
                for j in range(len(obs)):
                    y[unit, j] = 0 if y[unit, j] < 0 else y[unit, j]
        start, top = bias + outputs, middle
    return rows


@_compiled()
def transposed(x):  # type: ignore[no-untyped-def]
    """(M, N) -> (N, M), sixteen rows at a time, so that what is read is still in the cache when it is read again."""
    rows, columns = x.shape
    out = np.empty((columns, rows), x.dtype)
    for first in range(0, rows, 16):
        for j in range(columns):
            for i in range(first, min(first + 16, rows)):
                out[j, i] = x[i, j]
    return out


@_compiled()
def backward(values, grads, sizes, rows, gradient):  # type: ignore[no-untyped-def]
    """Fill `grads` from the gradient of the logits (B, A K); `rows` are those of `forward`."""
    grads[:] = 0
    end, top = len(values), len(rows)
    for i in range(len(sizes) - 2, -1, -1):
        inputs, outputs = sizes[i], sizes[i + 1]
        bias, top = end - outputs, top - outputs
        start = bias - inputs * outputs
        x = transposed(rows[top - inputs : top])
        add_product(gradient.T, x, grads[start:bias].reshape(outputs, inputs))
        for j in range(len(gradient)):
            for unit in range(outputs):
                grads[bias + unit] += gradient[j, unit]
        if i:
            before = np.zeros(x.shape, x.dtype)
            add_product(gradient, values[start:bias].reshape(outputs, inputs), before)
            for j in range(len(x)):
                for unit in range(inputs):
                    before[j, unit] = before[j, unit] if x[j, unit] > 0 else 0
            gradient = before
        end = start


@_compiled()
def look(values, sizes, obs, atoms):  # type: ignore[no-untyped-def]
    """Logits (A K, B) less the largest of each action, so that their powers do not overflow."""
    rows = forward(values, sizes, obs)
    logits = rows[len(rows) - sizes[-1] :].copy()
    for first in range(0, len(logits), atoms):
        largest = logits[first].copy()
        for k in range(first, first + atoms):
            for j in range(len(obs)):
                largest[j] = max(largest[j], logits[k, j])
        for k in range(first, first + atoms):
            for j in range(len(obs)):
                logits[k, j] -= largest[j]
    return logits


@_compiled()
def look_at(values, sizes, obs, action, atoms):  # type: ignore[no-untyped-def]
    """rows, and the logits of one action each (B,) as `look` gives them, (K, B)."""
    rows = forward(values, sizes, obs)
    first = len(rows) - sizes[-1]
    logits = np.empty((atoms, len(obs)), rows.dtype)
    for j in range(len(obs)):
        largest = -np.inf
        for k in range(atoms):
            logits[k, j] = rows[first + action[j] * atoms + k, j]
            largest = max(largest, logits[k, j])
        for k in range(atoms):
            logits[k, j] -= largest
    return rows, logits


@_compiled()
def best_of(powers, z):  # type: ignore[no-untyped-def]
    """The greedy actions (B,), from masses up to a factor (A K, B)."""
    atoms, count = len(z), powers.shape[1]
    best, highest = np.zeros(count, np.int64), np.empty(count, powers.dtype)
    for first in range(0, len(powers), atoms):
        mass, value = np.zeros(count, powers.dtype), np.zeros(count, powers.dtype)
        for k in range(atoms):
            for j in range(count):
                mass[j] += powers[first + k, j]
                value[j] += powers[first + k, j] * z[k]
        for j in range(count):
            if first == 0 or value[j] / mass[j] > highest[j]:
                best[j], highest[j] = first // atoms, value[j] / mass[j]
    return best


@_compiled()
def projected(powers, best, reward, discount, z):  # type: ignore[no-untyped-def]
    """As `c51_fused.project` of the masses of one action each: (K, B); and the share of positions off the support."""
    atoms, count, last = len(z), powers.shape[1], len(z) - 1
    target, row, outside = np.empty((atoms, count), powers.dtype), np.empty(atoms), 0
    for j in range(count):
        row[:] = 0
        total = 0.0
        for k in range(atoms):
            at = reward[j] + discount[j] * z[k]
            outside += (at < z[0]) + (at > z[last])
            place = min(max((at - z[0]) * (last / (z[last] - z[0])), 0.0), last)
            lower = int(place) if place < last else last - 1  # of a NaN as well, whose share is NaN all the same
            power = powers[best[j] * atoms + k, j]
            share = (place - lower) * power
            total += power
            row[lower] += power - share
            row[lower + 1] += share
        for k in range(atoms):
            target[k, j] = row[k] / total
    return target, outside / (atoms * count)


@_compiled()
def descend(values, grads, sizes, rows, target, logits, powers, action, weights, z):  # type: ignore[no-untyped-def]
    """Fill `grads` with that of the mean of weights (B,) * cross-entropy between target (K, B) and Z(s, a).

    Args:
        logits, powers: of `look_at`, and their exponential: (K, B). The first become log Z(s, a).

    Returns:
        Means over the batch: the cross-entropy without weights, and the expectation of Z(s, a).
    """
    atoms, count = target.shape
    gradient = np.zeros((count, sizes[-1]), values.dtype)
    entropy = value = 0.0
    for j in range(count):
        mass = masses = 0.0
        for k in range(atoms):
            mass += powers[k, j]
            masses += target[k, j]
        factor, log_mass, first = weights[j] / count, math.log(mass), action[j] * atoms
        for k in range(atoms):
            p = powers[k, j] / mass
            logits[k, j] -= log_mass
            entropy -= target[k, j] * logits[k, j]
            value += p * z[k]
            # d/dlogits of -sum target log softmax(logits) is softmax * (sum of target) - target
            gradient[j, first + k] = (p * masses - target[k, j]) * factor
    backward(values, grads, sizes, rows, gradient)
    return entropy / count, value / count


@_compiled("reassoc", "nsz")
def greedy(values, sizes, obs, z):  # type: ignore[no-untyped-def]
    """The greedy action in one state (inputs,)."""
    x, start, atoms = obs, 0, len(z)
    for i in range(len(sizes) - 1):
        inputs, outputs = sizes[i], sizes[i + 1]
        bias = start + inputs * outputs
        weight = values[start:bias].reshape(outputs, inputs)
        y = np.empty(outputs, values.dtype)
        for unit in range(outputs):
            total = values[bias + unit]
            for k in range(inputs):
                total += weight[unit, k] * x[k]
            y[unit] = 0 if total < 0 and i < len(sizes) - 2 else total
        x, start = y, bias + outputs
    best, highest = 0, -np.inf
    for first in range(0, len(x), atoms):
        largest, mass, value = x[first : first + atoms].max(), 0.0, 0.0
        for k in range(atoms):
            power = math.exp(x[first + k] - largest)
            mass += power
            value += power * z[k]
        if value / mass > highest:
            best, highest = first // atoms, value / mass
    return best


@_compiled("reassoc", "nsz")
def norm(vector):  # type: ignore[no-untyped-def]
    """Euclidean, summed in float64."""
    total = 0.0
    for i in range(len(vector)):
        total += np.float64(vector[i]) * np.float64(vector[i])
    return math.sqrt(total)


@_compiled()
def adam(values, grads, exp_avg, exp_avg_sq, steps, lr, eps):  # type: ignore[no-untyped-def]
    """One step of Adam as `steppers.FlatAdam` takes it; `steps` () counts them."""
    steps[()] += 1
    kind = values.dtype.type
    rate = kind(lr / (1 - 0.9 ** steps[()]))
    spread, floor = kind(1 / math.sqrt(1 - 0.999 ** steps[()])), kind(eps)
    new, new_sq, old_sq = kind(0.1), kind(0.001), kind(0.999)
    for i in range(len(values)):
        exp_avg[i] += new * (grads[i] - exp_avg[i])
        exp_avg_sq[i] = old_sq * exp_avg_sq[i] + new_sq * grads[i] * grads[i]
        values[i] -= rate * exp_avg[i] / (np.sqrt(exp_avg_sq[i]) * spread + floor)
