"""Loading what was saved, and what is said of a wrong model, size, prompt."""

from types import SimpleNamespace

import pytest
import torch
from families import EACH, READING, T, bound, flow, fresh, state

from flowhelm.bench.pipelines import tiny
from flowhelm.priors import pipelines


@EACH
def test_saved_and_loaded_it_is_the_same(name, folder):
    told = tiny.CASES[name][1]
    mine = pipelines.load(folder(name), dtype=torch.float32, size=told["size"])
    assert type(mine) is type(flow(name))
    assert not mine.net.training
    assert not any(each.requires_grad for each in mine.net.parameters())
    mine = mine.bind(told["prompt"], negative=told.get("negative"), scale=told.get("scale"))
    x = state(name)
    torch.testing.assert_close(mine.velocity(x, T), bound(name).velocity(x, T), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.decode(x), bound(name).decode(x), rtol=1e-5, atol=1e-5)


def test_an_unknown_family():
    with pytest.raises(ValueError, match=r"no family for SimpleNamespace; expected one of [0-9]+ classes"):
        pipelines.wrap(SimpleNamespace())


@EACH
def test_a_wrong_size(name):
    step = flow(name).multiple
    with pytest.raises(ValueError, match=rf"that {step} divides, got {2 * step + 1} x {step}; .* would do"):
        flow(name).sized(2 * step + 1, step)
    near = flow(name).sized(2 * step, step)
    assert near.shape[0] == flow(name).shape[0]
    assert near.codec.shape(2 * step, step) == near.shape


@READING
def test_a_missing_text_encoder(name):
    own = fresh(name)
    lost = flow(name).reads[-1]
    setattr(own, lost, None)
    mine = pipelines.wrap(own, size=tiny.CASES[name][1]["size"])
    with pytest.raises(ValueError, match=f"expected a {lost} to read prompts with"):
        mine.bind("a cat")


@EACH
def test_missing_names_of_embeddings(name):
    with pytest.raises(ValueError, match=f"got none for {flow(name).needs[0]}"):
        flow(name).bind({"others": torch.zeros(1, 2, 3)})


@READING
def test_unequal_rows_of_embeddings(name):
    said = {each: torch.zeros(1, 2, 16) for each in flow(name).needs} | {"more": torch.zeros(2, 2, 16)}
    with pytest.raises(ValueError, match="expected as many rows of every embedding"):
        flow(name).bind(said)


def test_what_is_wrong_with_prompts():
    sd3 = flow("sd3")
    with pytest.raises(ValueError, match="at least one prompt"):
        sd3.bind([])
    with pytest.raises(ValueError, match="expected 2 negative prompts, got 1"):
        sd3.bind(["a", "b"], negative=["c"])
    with pytest.raises(ValueError, match="expected texts as `negative`"):
        sd3.bind(["a"], negative={"prompt_embeds": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match="expected embeddings as `negative`"):
        sd3.bind(dict(bound("sd3").told))
    with pytest.raises(ValueError, match=r"call flow\.bind"):
        sd3.velocity(state("sd3"), T)
    with pytest.raises(ValueError, match="expected a multiple of the 2 bound rows, got a batch of 3"):
        bound("sd3", "a", "b").velocity(state("sd3", 3), T)


@READING
def test_embeddings_say_what_their_texts_say(name):
    mine, x = bound(name), state(name)
    negative = None if mine.null is None else dict(mine.null)
    scale = tiny.CASES[name][1].get("scale")
    if negative is not None and "nothing" in negative:  # Ideogram compares with a network that reads none
        negative = dict(mine.told)
    again = flow(name).bind(dict(mine.told), negative=negative, scale=scale)
    torch.testing.assert_close(again.velocity(x, T), mine.velocity(x, T), rtol=0, atol=0)


def test_a_hunyuan_that_is_told_its_scale_but_goes_between_no_two_times_is_refused():
    made = fresh("hunyuan-image")
    made.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ValueError, match="neither the base model nor the distilled one"):
        pipelines.wrap(made, size=tiny.SIZE)


def test_the_experts_of_hidream_must_be_differentiable():
    own = fresh("hidream")
    own.transformer.register_to_config(force_inference_output=True)
    mine = pipelines.wrap(own, size=(16, 64)).bind("a cat", scale=1.0)
    x = state("hidream")
    assert mine.velocity(x, T).isfinite().all()
    with pytest.raises(ValueError, match="force_inference_output"):
        mine.velocity(x.requires_grad_(), T)


def test_glm_draws_the_tokens_of_a_text_from_a_seed_of_its_own(monkeypatch):
    """Its language model is not made here: in its place stands what it does to the generators of the process."""
    own = fresh("glm-image")
    own.processor = own.vision_language_encoder = object()
    asked = []

    def draw(prompt, height, width, generator):
        asked.append((prompt, height, width))
        torch.manual_seed(generator.initial_seed())
        return torch.randint(50, (1, 128)), None, None

    monkeypatch.setattr(own, "generate_prior_tokens", draw)
    before = torch.get_rng_state()
    mine = pipelines.wrap(own, size=(32, 64)).bind(["the word 'cat'", "a 'black dog'"], scale=3.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert asked == [("the word 'cat'", 32, 64), ("a 'black dog'", 32, 64)]
    assert not mine.told.get("prior_token_drop", torch.zeros(1)).any()
    assert mine.null["prior_token_drop"].all()
    x = state("glm-image", 2)
    for i, text in enumerate(["the word 'cat'", "a 'black dog'"]):
        alone = pipelines.wrap(own, size=(32, 64)).bind(text, scale=3.0).velocity(x[i : i + 1], T)
        torch.testing.assert_close(mine.velocity(x, T)[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_sd3_s_table_of_positions_ends():
    assert flow("sd3").sized(192, 192).shape[-1] == 96
    with pytest.raises(ValueError, match="at most 192 x 192 pixels"):
        flow("sd3").sized(32, 194)
