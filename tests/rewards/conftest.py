"""Tiny random models of the real classes with tiny tokenizers, saved to folders as their authors' are."""

import pytest
import torch
from safetensors.torch import save_file

WORDS = "a red cat dog two cups on the table how many are there yes no three does this show"


@pytest.fixture(scope="session")
def pictures():
    """Smooth pictures `(rows, 3, h, w)` in [-1, 1] on the grid of 8-bit levels."""

    def make(rows=2, height=32, width=32, seed=0):
        rough = torch.rand(rows, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")
        return (255 * smooth).round() / 127.5 - 1

    return make


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    letters = [chr(n) for n in range(97, 123)]
    names = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **small, "vocab_size": len(names), "max_position_embeddings": 24, "bos_token_id": len(names) - 2,
            "eos_token_id": len(names) - 1, "hidden_act": "gelu",
        },
        vision_config={**small, "image_size": 32, "patch_size": 8, "hidden_act": "gelu"},
        projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    with torch.no_grad():  # random towers all but ignore what they see: larger weights do not
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "position" not in name:
                parameter.mul_(4)
        model.logit_scale.fill_(1.7)
    path = tmp_path_factory.mktemp("clip")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    side = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def random_head():
    """Weights of linear layers of so many outputs, under such numbers."""

    def make(width, sizes, numbers):
        generator, weights = torch.Generator().manual_seed(5), {}
        for before, after, number in zip((width, *sizes), sizes, numbers, strict=False):
            weights[f"layers.{number}.weight"] = torch.randn(after, before, generator=generator)
            weights[f"layers.{number}.bias"] = torch.randn(after, generator=generator)
        return weights

    return make


@pytest.fixture(scope="session")
def blip_folder(tmp_path_factory, random_head):
    transformers = pytest.importorskip("transformers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    tokenizer = transformers.BertTokenizer(vocab={name: i for i, name in enumerate(names)})
    small = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    config = transformers.BlipConfig(
        vision_config={**small, "hidden_size": 24, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6},
        text_config={
            **small, "hidden_size": 16, "encoder_hidden_size": 24, "vocab_size": len(names),
            "max_position_embeddings": 40,
        },
        image_text_hidden_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BlipForImageTextRetrieval(config)
    path = tmp_path_factory.mktemp("blip")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    save_file(random_head(16, (6, 1), (0, 2)), path / "head.safetensors")
    return path


def template(image):
    return (
        "{% for turn in messages %}<s> user : {% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}" + image + " {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )


def word_tokenizer(specials):
    """Whole words, each a token, after <s>; and their table."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<pad>", "<unk>", "<s>", *specials, "user", "assistant", ":", "?", *dict.fromkeys(WORDS.split())]
    table = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", table["<s>"])])
    own = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "additional_special_tokens": specials}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **own), table


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    tokenizer, table = word_tokenizer(["<image>"])
    small = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(hidden_size=16, image_size=32, patch_size=8, **small),
        text_config=transformers.LlamaConfig(hidden_size=16, vocab_size=len(table), num_key_value_heads=2, **small),
        image_token_index=table["<image>"],
        image_seq_length=16,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    side = {"height": 32, "width": 32}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    path = tmp_path_factory.mktemp("llava")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    start, end, image, video = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
    tokenizer, table = word_tokenizer([start, end, image, video])
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32},
            **{"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        },
        text_config={
            **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": len(table)},
            **{"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3},
            **{"bos_token_id": 2, "eos_token_id": 0, "pad_token_id": 0},
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        image_token_id=table[image],
        video_token_id=table[video],
        vision_start_token_id=table[start],
        vision_end_token_id=table[end],
    )
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=template(start + image + end),
    )
    path = tmp_path_factory.mktemp("qwen")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
