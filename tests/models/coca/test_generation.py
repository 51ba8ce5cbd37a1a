"""Cached generation gives what the uncached model gives, at the cost of one new token a step."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from tests.models.coca.conftest import BOS, CONFIG, EOS, open_clip_model, our_model, texts
from unprompt.errors import UnpromptError
from unprompt.models.coca import CoCaCache
from unprompt.models.coca.layers import CrossAttention, Mlp
from unprompt.models.coca.open_clip import load_open_clip
from unprompt.models.coca.packing import PackedLinear, pack

MODEL = our_model().eval()
torch.manual_seed(0)
for parameter in MODEL.parameters():
    torch.nn.init.normal_(parameter, std=0.2)


@settings(max_examples=25)
@given(
    images=st.integers(1, 3),
    rows_per_image=st.integers(1, 4),
    steps=st.lists(st.integers(1, 5), min_size=1, max_size=5).filter(lambda s: sum(s) <= 16),
    seed=st.integers(0, 1000),
    grouped=st.booleans(),
    data=st.data(),
)
@torch.no_grad()
def test_logits_of_every_step_equal_the_full_forward(
    images, rows_per_image, steps, seed, grouped, data
):
    """Any chunks of tokens, any beams an image, any padding on the left, beams reordered between.

    The reference is the full text with copies of the images, one a row, and no cache.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, length = images * rows_per_image, sum(steps)
    pixels = torch.randn(images, 3, 32, 32, generator=generator)
    ids = torch.randint(0, 94, (rows, length), generator=generator)
    padding = data.draw(st.lists(st.integers(0, steps[0] - 1), min_size=rows, max_size=rows))
    mask = (torch.arange(length) >= torch.tensor(padding)[:, None]).long()
    copies = pixels.repeat_interleave(rows_per_image, dim=0)
    cache, done = CoCaCache(rows_per_image if grouped else 1), 0
    for step in steps:
        output = MODEL(
            ids[:, done : done + step],
            pixels if done == 0 else None,
            mask[:, : done + step],
            past_key_values=cache,
        )
        done += step
        full = MODEL(ids[:, :done], copies, mask[:, :done]).logits[:, -step:]
        real = mask[:, done - step : done].bool()
        torch.testing.assert_close(output.logits[real], full[real], atol=1e-5, rtol=1e-5)
        beams = torch.randint(0, rows_per_image, (images, rows_per_image), generator=generator)
        order = (beams + torch.arange(images)[:, None] * rows_per_image).flatten()
        cache.reorder_cache(order)
        ids, mask = ids[order], mask[order]


@settings(max_examples=8)
@given(
    beams=st.integers(1, 5),
    max_length=st.integers(3, 17),
    images=st.integers(1, 3),
    sample=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_generate_with_and_without_cache(beams, max_length, images, sample, seed):
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(seed)
        outputs.append(
            MODEL.generate(
                pixels,
                num_beams=beams,
                max_length=max_length,
                do_sample=sample,
                num_return_sequences=beams,
                use_cache=use_cache,
                return_dict_in_generate=True,
                output_scores=True,
            )
        )
    cached, uncached = outputs
    assert torch.equal(cached.sequences, uncached.sequences)
    assert len(cached.sequences) == images * beams
    for ours, full in zip(cached.scores, uncached.scores, strict=True):
        torch.testing.assert_close(ours, full, atol=1e-5, rtol=1e-4)


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(2, 7), min_size=2, max_size=4),
    shortest=st.integers(0, 16),
    ends=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_greedy_search_is_the_librarys(lengths, shortest, ends, seed):
    """The library's own loop runs where more than tokens is asked for."""
    pixels = torch.randn(len(lengths), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    # Many end tokens, so that rows end at different lengths.
    search = {"min_length": shortest, "eos_token_id": list(range(0, 94, 8)) if ends else None}
    given = {"pixel_values": pixels, "input_ids": texts(lengths, seed), **search}
    theirs = MODEL.generate(**given, return_dict_in_generate=True)
    assert torch.equal(MODEL.generate(**given), theirs.sequences)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_greedy_tokens_are_open_clips(seed):
    """Greedy search over open_clip's own forward, which is what its `generate` would do."""
    theirs = open_clip_model(seed)
    ours = our_model().eval()
    load_open_clip(ours, theirs.state_dict())
    pixels = torch.randn(4, 3, 32, 32)
    expected = torch.full((4, 1), BOS)
    ended = torch.zeros(4, dtype=torch.bool)
    while expected.shape[1] < 16:
        logits = theirs(pixels, expected, output_labels=False)["logits"][:, -1]
        # open_clip masks every token 0 as padding, wherever it stands: keep it out of the way.
        logits[:, 0] = -torch.inf
        token = torch.where(ended, EOS, logits.argmax(-1))
        ended |= token == EOS
        expected = torch.cat([expected, token[:, None]], dim=1)
    captions = ours.generate(pixels, max_length=16, suppress_tokens=[0])
    assert torch.equal(captions, expected[:, : captions.shape[1]])
    assert len(captions.unique(dim=0)) > 1


def test_images_are_encoded_once_and_their_keys_and_values_made_once_per_image(model, pixels):
    seen = {"image": 0, "keys": 0}
    model.model.image.register_forward_hook(lambda *_: seen.update(image=seen["image"] + 1))
    original = CrossAttention.keys_values

    def counted(self, context):
        seen["keys"] += 1
        assert len(context) == len(pixels)
        return original(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrossAttention, "keys_values", counted)
        model.generate(pixels, num_beams=4, num_return_sequences=2, max_length=10, min_length=10)
    assert seen == {"image": 1, "keys": 1 + CONFIG.decoder_layers}  # the pooler's own besides


def test_beginnings_of_different_lengths(model, pixels):
    """Each row of a padded batch goes on as it does alone."""
    ids = texts([7, 3, 5])
    together = model.generate(pixels, ids, max_new_tokens=4, min_new_tokens=4, num_beams=2)
    for row, length in enumerate([7, 3, 5]):
        alone = model.generate(
            pixels[row : row + 1],
            ids[row : row + 1, : length - 1],  # without the end token
            max_new_tokens=4,
            min_new_tokens=4,
            num_beams=2,
        )
        assert torch.equal(together[row, -(length - 1 + 4) :], alone[0])


def test_constraints_and_samples(model, pixels):
    captions = model.generate(
        pixels,
        do_sample=True,
        top_p=0.9,
        temperature=1.5,
        num_return_sequences=5,
        bad_words_ids=[[token] for token in range(40)],
        max_length=12,
    )
    assert captions.shape[0] == 15
    assert not (captions < 40).any()
    assert len(captions.unique(dim=0)) > 5
    greedy = model.generate(pixels, repetition_penalty=1e6, max_length=12)
    for caption in greedy:
        words = caption[(caption != EOS)]
        assert len(words.unique()) == len(words)


def test_only_some_tokens_may_follow(model, pixels):
    """Each token is even where the one before is odd, and odd where it is even."""

    def allowed(row, ids):
        return list(range(int(ids[-1] + 1) % 2, 92, 2))

    captions = model.generate(
        pixels, prefix_allowed_tokens_fn=allowed, num_beams=3, num_return_sequences=2, max_length=9
    )
    assert captions.shape == (6, 9)
    assert ((captions[:, 1:] - captions[:, :-1]) % 2 == 1).all()


def test_groups_of_beams_that_nothing_drives_apart(model, pixels):
    """open_clip's default search, 6 beams in 3 groups; transformers 5 refuses it."""
    grouped = model.generate(pixels, num_beams=6, num_beam_groups=3, max_length=12)
    assert torch.equal(grouped, model.generate(pixels, num_beams=2, max_length=12))
    with pytest.raises(ValueError, match="num_beams=5 is not a multiple of num_beam_groups=3"):
        model.generate(pixels, num_beams=5, num_beam_groups=3)


def test_encoded_images_can_be_given(model, pixels):
    outputs = model.model.encode_images(pixels)
    assert torch.equal(
        model.generate(image_outputs=outputs, max_length=8), model.generate(pixels, max_length=8)
    )


def test_half_precision(pixels):
    model = our_model().eval().to(torch.bfloat16)
    cached = model.generate(pixels, num_beams=3, max_length=12)
    assert torch.equal(cached, model.generate(pixels.bfloat16(), num_beams=3, max_length=12))
    logits = model(cached[:, :5], pixels).logits
    assert torch.isfinite(logits).all()
    packed = pack(model)(cached[:, :5], pixels).logits
    torch.testing.assert_close(packed, logits, atol=0.02, rtol=0.02)


def test_half_precision_is_not_packed_where_the_processor_lacks_it(pixels, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    model = our_model().to(torch.bfloat16)
    captions = model.eval().generate(pixels, max_length=12)
    assert torch.equal(pack(model.train()).generate(pixels, max_length=12), captions)
    assert any(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert not model.training


def test_the_context_is_filled_and_no_more(model, pixels):
    captions = model.generate(pixels, min_length=17)
    assert captions.shape == (3, CONFIG.context_length + 1)
    with pytest.raises(ValueError, match="exceed the context of 16"):
        model.generate(pixels, min_length=18, max_length=18)


def test_what_is_missing_is_said(model):
    with pytest.raises(ValueError, match="generate needs pixel_values"):
        model.generate()
    with pytest.raises(ValueError, match="needs image_states"):
        model(texts([3]), past_key_values=CoCaCache())


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_a_cropped_cache_goes_on_from_there(model, pixels, beams):
    ids = texts([9] * 9)
    cache, pixels = CoCaCache(beams), pixels
    model(ids[:, :6], pixels, past_key_values=cache)
    cache.reorder_cache(torch.arange(9))
    cache.crop(-2)
    assert cache.get_seq_length() == 4
    logits = model(ids[:, 4:], past_key_values=cache).logits
    full = model(ids, pixels.repeat_interleave(3, dim=0)).logits[:, 4:]
    torch.testing.assert_close(logits, full, atol=1e-5, rtol=1e-5)


def test_rows_of_a_cache_stay():
    with pytest.raises(NotImplementedError):
        CoCaCache().batch_repeat_interleave(2)
    with pytest.raises(NotImplementedError):
        CoCaCache().batch_select_indices(torch.tensor([0]))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("beams", [1, 3])
def test_packed_weights_generate_the_same(model, pixels, activation, beams):
    for module in model.modules():
        if isinstance(module, Mlp):
            module.activation = ACT2FN[activation]
    search = {"num_beams": beams, "max_length": 14, "num_return_sequences": beams}
    search |= {"return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(pixels, **search)
    captions = expected.sequences
    logits = model(captions[:3, :16], pixels).logits
    packed = pack(copy.deepcopy(model))
    assert not any(isinstance(module, torch.nn.Linear) for module in packed.modules())
    torch.testing.assert_close(
        packed(captions[:3, :16], pixels).logits, logits, atol=1e-5, rtol=1e-5
    )
    result = packed.generate(pixels, **search)
    assert torch.equal(result.sequences, captions)
    for ours, theirs in zip(result.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if beams == 1:
        assert torch.equal(packed.generate(pixels, max_length=14), captions)


@torch.no_grad()
def test_a_packed_model_steps_on_from_chunks_and_other_rows(model, pixels):
    """One position after several, several after one, rows in another order, new room."""
    packed, ids = pack(copy.deepcopy(model)), texts([16] * 3)
    cache, done = CoCaCache(), 0
    for step in (3, 1, 1, 4, *[1] * 7):
        given = ids[:, done : done + step]
        logits = packed(given, pixels if done == 0 else None, past_key_values=cache).logits
        done += step
        expected = model(ids[:, :done], pixels).logits[:, -step:]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        for _ in range(2):  # there and back: rows of different images do not change places
            cache.reorder_cache(torch.tensor([0, 2, 1]))


def test_a_packed_model_is_not_saved_without_its_weights(model, tmp_path):
    packed = pack(copy.deepcopy(model))
    for save in (packed.state_dict, lambda: packed.save_pretrained(tmp_path)):
        with pytest.raises(UnpromptError, match=r"cannot be saved.* before `pack`"):
            save()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_layers_take_any_strides(dtype):
    layer = torch.nn.Linear(48, 64).to(dtype)
    layer.weight = torch.nn.Parameter(layer.weight.T.contiguous().T)
    layer.bias = torch.nn.Parameter(torch.randn(64, 2, dtype=dtype)[:, 0])
    packed = PackedLinear(layer)
    rows = torch.randn(2, 48, 5, dtype=dtype).transpose(1, 2)
    for x in (rows, rows[:, ::2], rows[:1].expand(3, -1, -1)):
        torch.testing.assert_close(packed(x), layer(x), atol=0.02, rtol=0.01)


@pytest.mark.parametrize("outside", [-1, 94])
def test_token_ids_outside_the_vocabulary_are_refused(model, pixels, outside):
    ids = texts([7, 3, 5])
    ids[1, 1] = outside
    for one in (model, pack(copy.deepcopy(model))):
        for call in (one.generate, lambda *given: one(*reversed(given))):  # noqa: B023
            with pytest.raises(ValueError, match=f"token id {outside} is outside the vocabulary"):
                call(pixels, ids)


def test_only_models_on_a_cpu_are_packed(model):
    with pytest.raises(UnpromptError, match="on a CPU"):
        pack(model.to("meta"))


def test_a_cache_can_be_used_again(model, pixels):
    cache = CoCaCache()
    first = model(texts([4, 4, 4]), pixels, past_key_values=cache).logits
    cache.reset()
    assert torch.equal(model(texts([4, 4, 4]), pixels, past_key_values=cache).logits, first)
