"""Reading our own pages back: forms, refusals, tasks, and rendered Markdown."""

import pytest

from app.demo import pages
from app.demo.pages import PageError
from app.prose.markdown import render as markdown

FORMS = """
<form action="/work/1/next">
  <input type="hidden" name="csrf_token" value="t"><input type="hidden" name="kind" value="ranking">
</form>
<form action="/work/1/next">
  <input type="hidden" name="csrf_token" value="t"><input type="hidden" name="kind" value="demonstration">
</form>
<form action="/runs/new?project=7&amp;method=dpo">
  <input name="beta" type="number" value="0.1"> <input type="file" name="file"> <button type="submit">Go</button>
  <select name="model_id"><option value="a">base</option><option value="b" selected>sft-1 (promoted)</option></select>
  <input id="p1" name="policies" type="checkbox" value="a"><label for="p1">base</label>
  <input id="p2" name="policies" type="checkbox" value="b" checked><label for="p2">sft-1</label>
  <textarea name="advanced">
{"x": 1}</textarea>
</form>
"""


def test_a_form_is_found_by_its_address_and_its_hidden_fields() -> None:
    page = pages.parse(FORMS)
    assert pages.form(page, "/work/1/next").fields["kind"] == "ranking"
    assert pages.form(page, "/work/1/next", kind="demonstration").fields == {"csrf_token": "t", "kind": "demonstration"}
    with pytest.raises(PageError, match="no form that is sent to /work/2/next"):
        pages.form(page, "/work/2/next")


def test_a_form_is_sent_as_it_stands_on_the_page() -> None:
    form = pages.form(pages.parse(FORMS), "/runs/new")
    assert form.action == "/runs/new?project=7&method=dpo"
    assert form.fields == {"beta": "0.1", "model_id": "b", "policies": "b", "advanced": '\n{"x": 1}'}
    assert form.choices == {
        "model_id": {"base": "a", "sft-1 (promoted)": "b"},
        "policies": {"base": "a", "sft-1": "b"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "Cats purr when they feel safe & warm, don't they?",
        "One paragraph.\n\nAnother one, with **bold** words.",
        "Do this:\n\n- first\n- second\n\nThen stop.",
        "1. first\n2. second",
        "# A heading\n\nand `code` and *stress*",
        "one line\nand the next",
    ],
)
def test_rendered_markdown_is_read_back_as_it_was_written(text: str) -> None:
    page = pages.parse(f'<div class="prose">{markdown(text)}</div>')
    back = pages.markdown_of(next(page.find(css_class="prose")))
    assert [line.strip() for line in back.splitlines() if line.strip()] == [
        line.strip() for line in text.splitlines() if line.strip()
    ]


def test_the_first_refusal_on_a_page_is_its_reason() -> None:
    page = pages.parse('<p>fine</p><div class="notice notice-danger"><p>Choose  another\nname.</p></div>')
    assert pages.refusal(page) == "Choose another name."
    assert pages.refusal(pages.parse("<p>fine</p>")) == ""


def test_a_page_without_a_task_is_an_error() -> None:
    with pytest.raises(PageError, match="shows no task"):
        pages.task(pages.parse("<main>nothing here</main>"))
