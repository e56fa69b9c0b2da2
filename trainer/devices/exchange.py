"""How many bytes a step sends between workers, and which form of an embedding's gradient is the
shorter one.
"""

from typing import NamedTuple

# bytes of a gradient's element; in float64, which is for proofs, all sizes double and the choice
# stays
FLOAT = 4
ID = 8  # bytes of an id, which XLA computes as int32 and a gather carries as int64


def all_reduce_bytes(values: int, workers: int) -> float:
    """Bytes that each worker sends to add up vectors of `values` numbers in a ring.

    Each of `workers` pieces goes round twice but for its last stop: 2 (w - 1) / w of the vector.
    Patarasuk and Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009,
    section 3.
    """
    return 2 * (workers - 1) / workers * values * FLOAT


def all_gather_bytes(rows: int, width: int, workers: int) -> float:
    """Bytes that each worker sends so that all have its `rows` rows of `width` numbers, each with
    its id.
    """
    return (workers - 1) * rows * (width * FLOAT + ID)


class Exchange(NamedTuple):
    """What each worker sends in a step. embedding_by_row: the gradient of the embedding goes as a
    row per token.
    """

    bytes: float
    embedding_by_row: bool


def exchange(parameters: int, vocabulary: int, width: int, tokens: int, workers: int) -> Exchange:
    """The shorter of the two forms of a gradient: one vector of everything, or the embedding's rows
    beside the rest.

    Args:
      parameters: trained values, the embedding [vocabulary, width] included; both are 0 where none
        is trained. tokens: those of one worker's part of the batch, padding included, at the
        longest padded length.
    """
    whole = all_reduce_bytes(parameters, workers)
    by_row = all_reduce_bytes(parameters - vocabulary * width, workers) + all_gather_bytes(
        tokens, width, workers
    )
    return Exchange(by_row, True) if by_row < whole else Exchange(whole, False)
