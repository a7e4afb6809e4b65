"""The component `time_ner`: names."""

from collections.abc import Iterable, Sequence
from typing import Any

from spacy.language import Language
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc, Span

from time_jax.serve import tagger
from time_jax.spacy_pipeline.component import Component, read


@Language.factory(
  "time_ner",
  assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
  default_config={"int8": False},
  default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0},
)
def make_names(nlp: Language, name: str, int8: bool) -> "Names":
  """Returns the component, without an export; see `Exported`."""
  del nlp
  return Names(name, int8=int8)


class Names(Component):
  """Finds names with a model of `finetune ner`.

  Those that a document already has stay, and no other one has a part of them.
  """

  task = "ner"

  @property
  def labels(self) -> tuple[str, ...]:
    """The kinds of names."""
    tags = self.classes.get("TAG", ())
    return tuple(sorted({tag[2:] for tag in tags if tag[1:2] == "-"}))

  def annotate(self, docs: Sequence[Doc]) -> None:
    """Writes names."""
    numbers, words = read(docs)
    found = iter(self.opened(words))
    for doc, some in zip(docs, numbers, strict=True):
      spans: list[Span] = []
      for tokens in some:
        tags = next(found)["tags"]
        for first, stop in tagger.spans(tags):
          place = tokens[first], tokens[stop - 1] + 1
          spans.append(Span(doc, *place, label=tags[first][2:]))
      taken = {i for span in doc.ents for i in range(span.start, span.end)}
      free = [s for s in spans if taken.isdisjoint(range(s.start, s.end))]
      doc.set_ents([*doc.ents, *free], default="outside")

  def score(self, examples: Iterable[Any], **_: Any) -> dict[str, Any]:
    """Returns spaCy's scores of names."""
    return get_ner_prf([*examples])
