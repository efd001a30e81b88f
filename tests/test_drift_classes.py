"""Token classes on tokenizers of every kind, made here with the tokenizers library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import CheckpointError, UserError
from harness.token_classes import (
    classify,
    read_tokenizer,
    token_classes,
    token_texts,
    user_classes,
)

WORDS = ("1", " 1", "１", "12", "1st", "one", " one", "first", "A", " B", "yes", " No", "10:30")
NUMBERS = {"1", " 1", "12", "1st", "one", " one"}


def byte_level(words: tuple[str, ...], *, nested: bool) -> Tokenizer:
    """Qwen2 (a plain ByteLevel decoder) and LLaMA-3 (a Split before it, in a Sequence)."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["".join(part for part, _ in level.pre_tokenize_str(word)) for word in words]
    vocabulary = dict.fromkeys([*alphabet, *pieces])
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([level]) if nested else level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(words: tuple[str, ...]) -> Tokenizer:
    """Vicuna: a BPE with byte fallback, spaces as U+2581."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [word.replace(" ", "▁") for word in words]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def unigram(words: tuple[str, ...]) -> Tokenizer:
    pieces = [("<unk>", 0.0), *((word.replace(" ", "▁"), -1.0) for word in words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


KINDS = {
    "qwen2": lambda: byte_level(WORDS, nested=False),
    "llama3": lambda: byte_level(WORDS, nested=True),
    "vicuna": lambda: sentencepiece(WORDS),
    "unigram": lambda: unigram(WORDS),
    "bytes": lambda: byte_level((), nested=False),
}


@pytest.mark.parametrize("kind", ["qwen2", "llama3", "vicuna", "unigram"])
def test_words_are_classed_alike_in_every_kind_of_tokenizer(kind: str):
    tokenizer = KINDS[kind]()
    spec = json.loads(tokenizer.to_str())
    texts = token_texts(spec)
    by_text: dict[str, list[int]] = {}
    for token, text in texts.items():
        by_text.setdefault(text, []).append(token)
    assert set(WORDS) <= by_text.keys()
    found = token_classes(spec)
    for word in WORDS:
        for token in by_text[word]:
            assert (token in found["number"]) == (word in NUMBERS), word
    assert {texts[i] for i in found["letter"]} >= {"A", " B"}
    assert {texts[i] for i in found["yes_no"]} == {"yes", " No"}
    assert {texts[i] for i in found["time"]} == {"10:30"}


def test_bytes_alone_are_read_as_characters():
    texts = token_texts(json.loads(KINDS["bytes"]().to_str()))
    found = token_classes(json.loads(KINDS["bytes"]().to_str()))
    assert sorted(texts[i] for i in found["number"]) == list("0123456789")
    assert sorted(texts[i] for i in found["letter"]) == list("ABCDEFGHIJ")
    assert "\ufffd" in texts.values()


def test_byte_fallback_tokens_are_the_bytes_they_stand_for():
    spec = json.loads(KINDS["vicuna"]().to_str())
    assert spec["model"]["vocab"]["<0x31>"] in token_classes(spec)["number"]


def test_the_texts_are_what_the_tokenizer_itself_decodes():
    tokenizer = KINDS["qwen2"]()
    texts = token_texts(json.loads(tokenizer.to_str()))
    assert all(tokenizer.decode([token]) == text for token, text in texts.items())


def test_special_tokens_are_in_no_class_and_added_words_are():
    tokenizer = KINDS["qwen2"]()
    tokenizer.add_special_tokens([AddedToken("7", special=True)])
    tokenizer.add_special_tokens(["99"])
    tokenizer.add_tokens(["２０", "100"])
    spec = json.loads(tokenizer.to_str())
    ids = token_classes(spec)["number"]
    assert tokenizer.token_to_id("99") not in ids and tokenizer.token_to_id("100") in ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3.5", "number"), ("1,000", "number"), ("20th", "number"), ("x1", None), ("1x", None),
     ("TWENTY", "number"), ("[C]", "letter"), ("K", None), ("not", None), ("p.m.", "time")],
)  # fmt: skip
def test_classify(text: str, expected: str | None):
    assert classify(text) == expected


def test_own_classes_are_added_and_bad_ones_refused():
    classes = user_classes({"colour": ["red", "sky blue"]})
    assert classify(" Red", classes) == "colour" and classify("3", classes) == "number"
    with pytest.raises(UserError, match=r"token classes: 2 problems") as error:
        user_classes({"number": ["x"], "empty": [" "]})
    assert "number: got a name that is taken" in str(error.value)
    assert "empty: got no words" in str(error.value)


def test_a_folder_without_a_tokenizer_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing; save it with"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match="has no vocabulary"):
        read_tokenizer(tmp_path)


def test_the_command_lists_classes(tmp_path: Path):
    KINDS["qwen2"]().save(str(tmp_path / "tokenizer.json"))
    words = ["drift", "classes", str(tmp_path), "--json", "--class", "kind=first,second"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert [row["text"] for row in found["kind"]] == ["first"]
    assert {"1", " 1", "12", "1st"} <= {row["text"] for row in found["number"]}
    shown = CliRunner().invoke(app, ["drift", "classes", str(tmp_path)])
    assert "number" in shown.stdout and "yes_no" in shown.stdout
