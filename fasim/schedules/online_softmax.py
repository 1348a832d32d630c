"""Online softmax (Milakov & Gimelshein 2018), as FlashAttention-2 keeps it: base 2, unscaled."""

from __future__ import annotations

from fasim.schedules.language import LOG2_E, Block, Rows, Tile


class OnlineSoftmax:
    """Running row_max and row_sum of a block's rows of scores.

    O is left unnormalised until the end: `update` returns by how much to scale what has been
    accumulated so far (FlashAttention-2, section 3.1).
    """

    def __init__(self, block: Block, rows: Rows, scale: float) -> None:
        self.scale = scale
        self.scale_log2 = scale * LOG2_E
        self.row_max = block.full(float("-inf"), rows)
        self.row_sum = block.full(0.0, rows)

    def update(self, scores: Tile) -> tuple[Tile, Tile]:
        """P of these scores against the new maximum, and the correction of earlier ones."""
        row_max = scores.row_max().maximum(self.row_max)
        shift = row_max.finite() * self.scale_log2
        correction = (self.row_max * self.scale_log2 - shift).exp2()
        p = (scores * self.scale_log2 - shift).exp2()
        self.row_sum = self.row_sum * correction + p.row_sum()
        self.row_max = row_max
        return p, correction

    def merge(self, lse: Tile) -> tuple[Tile, Tile]:
        """The weight of rows normalised elsewhere, by LSE, and the correction of earlier ones.

        For a softmax of scale 1: an LSE is a score.
        """
        row_max = lse.maximum(self.row_max)
        shift = row_max.finite() * self.scale_log2
        correction = (self.row_max * self.scale_log2 - shift).exp2()
        weight = (lse * self.scale_log2 - shift).exp2()
        self.row_sum = self.row_sum * correction + weight
        self.row_max = row_max
        return weight, correction

    def inverse(self) -> Tile:
        """1/row_sum; 0 for a row that saw nothing."""
        return self.row_sum.inverse()

    def lse(self) -> Tile:
        """Natural log-sum-exp of the scaled scores; −inf for a row that saw nothing."""
        return self.row_max * self.scale + self.row_sum.log2() * (1 / LOG2_E)
