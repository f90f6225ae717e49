"""Probabilities of a table as arrays, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROUNDING = 1e-12  # of probabilities that went through logarithms and back
Floats = npt.NDArray[np.float64]


def softmax(scores: Floats) -> Floats:
    """Probabilities over the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def likeliest(scores: Floats) -> npt.NDArray[np.int64]:
    """The place of the highest score in each row, the first one of those that only rounding tells apart."""
    return np.asarray((scores >= scores.max(axis=-1, keepdims=True) - ROUNDING).argmax(axis=-1))


def stored_in(
    table: pa.Table, column: str, names: list[str], empty: float = 0.0
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which rows have a number for each of ``names``, and these [rows there, names]; ``empty`` for null."""
    struct = table[column].combine_chunks()
    there = struct.is_valid().to_numpy(zero_copy_only=False)
    numbers = [struct.field(name).fill_null(empty).to_numpy(zero_copy_only=False) for name in names]
    return there, np.stack(numbers, axis=1)[there]


def structs(values: Floats, there: npt.NDArray[np.bool_], table: pa.Table, column: str) -> pa.Array:
    """The cells of a column with a number for each label: ``values`` [rows there, labels]."""
    fields = list(table.schema.field(column).type)
    whole = np.zeros((len(table), len(fields)))
    whole[there] = values
    return pa.StructArray.from_arrays(
        [pa.array(whole[:, at], mask=~there) for at in range(len(fields))], fields=fields, mask=pa.array(~there)
    )


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with other values in a column."""
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, values.cast(field.type))
