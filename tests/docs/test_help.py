"""`help()` of everything public begins with a sentence, and names its source: a paper, a year, a standard, or that it is ours."""

import inspect
import re

import pytest

import flowhelm
from flowhelm import distil, guide, metrics, operators, restore, rewards, sample, steer, transition, tune

CATALOGUES = (steer, restore, sample, tune, distil, guide, transition, operators, rewards)
PUBLIC = (
    {name: getattr(flowhelm, name) for name in flowhelm.__all__}
    | {f"{home.__name__}.{each.__name__}": each for home in CATALOGUES for each in home.ALL}
    | {f"metrics.{name}": getattr(metrics, name) for name in metrics.__all__}
)
CALLABLE = {name: each for name, each in PUBLIC.items() if inspect.isroutine(each) or inspect.isclass(each)}
SOURCE = re.compile(
    r"arXiv:\d{4}\.\d{4,5}|\b(17|18|19|20)\d\d\b|OpenReview|\bITU\b|\bISO\b|Rec\. 601|flowhelm's own|No paper"
)


@pytest.mark.parametrize("name", sorted(CALLABLE))
def test_help_begins_with_a_sentence_and_names_a_source(name):
    text = inspect.getdoc(CALLABLE[name]) or ""
    assert re.match(r"(?!Args|Options|Yields|Raises|Returns|Of )(?:[A-Z0-9]|\w+\()", text), text[:80]
    first = text.partition("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "`")), first
    assert SOURCE.search(text), f"{name}: name the paper, or say flowhelm's own"
