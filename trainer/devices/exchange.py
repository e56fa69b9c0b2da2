"""Counts the bytes that a step sends between workers, and chooses the form of the gradient.

The gradient of an embedding can be sent whole, or as one row per token of the batch.
"""

from typing import NamedTuple

# Bytes of an element of a gradient. In float64, which only proofs use, all sizes double and the
# choice stays the same.
FLOAT = 4
ID = 8  # Bytes of an id: XLA computes it as int32, and a gather sends it as int64.


def all_reduce_bytes(values: int, workers: int) -> float:
    """Returns the bytes that each worker sends to add up vectors of `values` numbers in a ring.

    The vector is cut into w pieces, one per worker. A worker sends w - 1 pieces to add them up and
    w - 1 pieces to distribute the sums: 2 (w - 1) / w of the vector.
    Patarasuk and Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009,
    section 3.
    """
    return 2 * (workers - 1) / workers * values * FLOAT


def all_gather_bytes(rows: int, width: int, workers: int) -> float:
    """Returns the bytes that each worker sends so that all others get its rows.

    rows: of `width` numbers, each with its id.
    """
    return (workers - 1) * rows * (width * FLOAT + ID)


class Exchange(NamedTuple):
    """What each worker sends in a step.

    embedding_by_row: whether the gradient of the embedding is sent as one row per token.
    """

    bytes: float
    embedding_by_row: bool


def exchange(parameters: int, vocabulary: int, width: int, tokens: int, workers: int) -> Exchange:
    """Returns the shorter form: one vector of all gradients, or the embedding's rows and the rest.

    Args:
      parameters: number of trained values, the embedding's included.
      vocabulary, width: shape of the embedding; both are 0 if no embedding is trained.
      tokens: of one worker's part of the batch, padding included, at the longest padded length.
    """
    whole = all_reduce_bytes(parameters, workers)
    by_row = all_reduce_bytes(parameters - vocabulary * width, workers) + all_gather_bytes(
        tokens, width, workers
    )
    return Exchange(by_row, True) if by_row < whole else Exchange(whole, False)
