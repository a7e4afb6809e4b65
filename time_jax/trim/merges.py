"""The merges of a byte-pair encoding, and the pieces that each token needs.

A piece whose ancestors are gone is never made: "the" is t + h, then th + e,
and so needs "th". Which merges make a token does not depend on its neighbours:
none of them crosses the token's ends, or it would not have been a token, and
inside of it the merge of the lowest rank comes first, as everywhere. So the
merges are run on the token alone.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence

Pair = tuple[str, str]


class Merges:
  """Merges in order of rank."""

  def __init__(
    self, merges: Sequence[Sequence[str] | str], vocabulary: Collection[str]
  ) -> None:
    """Indexes them.

    Args:
      merges: of a tokenizer.json: ["a", "b"], in older files "a b".
      vocabulary: all tokens of the model.
    """
    self._rank: Mapping[Pair, int] = {
      pair_of(merge): rank for rank, merge in enumerate(merges)
    }
    self._vocabulary = vocabulary

  def ancestors(self, token: str) -> set[str]:
    """Every token that is there at some time while merges make this one.

    The token is one of them. A token that no merges make, since it is only
    ever found whole, needs nothing else.
    """
    parts, seen = list(token), set(token)
    while len(parts) > 1:
      ranks = [self._rank.get(pair) for pair in itertools.pairwise(parts)]
      known = [rank for rank in ranks if rank is not None]
      if not known:
        return {token}
      at = ranks.index(min(known))  # The leftmost of equals.
      parts[at : at + 2] = [parts[at] + parts[at + 1]]
      seen.add(parts[at])
    # What is no token falls back to bytes, which always stay.
    return {piece for piece in seen if piece in self._vocabulary}


def pair_of(merge: Sequence[str] | str) -> Pair:
  """The two parts that a merge joins."""
  first, second = merge.split(" ") if isinstance(merge, str) else merge
  return first, second
