"""Public sets of tags, questions and choices: read as published, tokenised with real tokenizers.

Counts are taken a second time, by regular expressions on the raw bytes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Model, Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import load_tokenizer, tokenize
from tests.data.helpers import COPA, COPA_COLUMNS, COPA_QUESTIONS, read
from tests.data.reference import check_tags, check_windows

NER = Task(
    "ner", "tagging", "f1", labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
)
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
POS = Task("pos", "tagging", "accuracy", labels=tuple(UPOS.split(" ")))
QA = Task("qa", "question_answering", "f1")

PANX = {"train-en": 20000, "dev-de": 10000, "dev-en": 10000, "dev-yo": 100}
PANX |= {f"dev-{language}": 1000 for language in ("bn", "hi", "sw", "ta", "te", "ur")}
XQUAD = ["xquad/xquad.de", "xquad/xquad.en", "xquad/xquad.es"]


def panx(name: str, shared: Path, **settings: Any) -> Examples:
    path = str(shared / f"data/panx/{name}.tsv")
    columns: dict[str, str | int] = {"words": 0, "tags": 1}
    return read(Source(path, format="conll", columns=columns, **settings), NER)


def tags(examples: Examples, task: Task) -> Counter[str]:
    return Counter(task.labels[tag] for sentence in examples.label for tag in sentence)


@pytest.mark.parametrize("name", PANX)
def test_panx(name: str, shared: Path) -> None:
    examples = panx(name, shared, num_records=PANX[name])
    data = (shared / f"data/panx/{name}.tsv").read_bytes()
    assert len(examples) == len(re.findall(rb"[^\n]\n(?:\n|\Z)", data)) == PANX[name]
    found = Counter(tag.decode() for tag in re.findall(rb"\t(.+)$", data, re.MULTILINE))
    assert tags(examples, NER) == found
    words = [word.decode() for word in re.findall(rb"^(.+)\t", data, re.MULTILINE)]
    assert [word for sentence in examples.text_a for word in sentence] == words


@pytest.mark.parametrize(
    ("path", "rows"), [("ud-en-ewt/en_ewt-ud-dev", 2001), ("ud-pud/de_pud-ud-test", 1000)]
)
def test_treebanks(path: str, rows: int, shared: Path) -> None:
    file = shared / f"data/{path}.conllu"
    examples = read(Source(str(file), columns={"id": "sent_id"}, num_records=rows), POS)
    data = file.read_bytes()
    lines = re.findall(rb"^\d+\t(.+?)\t.+?\t(.+?)\t", data, re.MULTILINE)
    assert [word for sentence in examples.text_a for word in sentence] == [
        word.decode() for word, _ in lines
    ]
    assert tags(examples, POS) == Counter(tag.decode() for _, tag in lines)
    ids = re.findall(rb"^# sent_id = (.+)$", data, re.MULTILINE)
    assert list(examples.id) == [name.decode() for name in ids] and len(ids) == rows
    # Multiword tokens and empty nodes are there, and left out.
    assert len(re.findall(rb"^\d+-\d+\t", data, re.MULTILINE)) > 300


@pytest.mark.parametrize("path", [*XQUAD, "lareqa-xquad-r/de", "lareqa-xquad-r/en"])
def test_questions(path: str, shared: Path) -> None:
    """Every answer stands where it should: the reader would list those that do not."""
    file = shared / f"data/{path}.json"
    examples = read(Source(str(file), format="squad", num_records=1190), QA)
    text = file.read_text(encoding="utf-8")
    for key, values in (("id", examples.id), ("question", examples.text_a)):
        found = re.findall(rf'"{key}": ("(?:[^"\\]|\\.)*")', text)
        assert [json.loads(value) for value in found] == list(values)
    starts = re.findall(r'"answer_start": (\d+)', text)
    assert [start for (_, start), *_ in examples.label] == [int(start) for start in starts]
    contexts = re.findall(r'"context": ("(?:[^"\\]|\\.)*")', text)
    assert list(dict.fromkeys(examples.text_b or ())) == [json.loads(each) for each in contexts]
    assert len(contexts) == 240


@pytest.mark.parametrize(
    "language", ["et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"]
)
@pytest.mark.parametrize(("split", "rows"), [("val", 100), ("test", 500)])
def test_choices(language: str, split: str, rows: int, shared: Path) -> None:
    file = shared / f"data/xcopa/{language}/{split}.{language}.jsonl"
    source = Source(str(file), columns=COPA_COLUMNS, questions=COPA_QUESTIONS, num_records=rows)
    examples = read(source, COPA)
    data = file.read_bytes()
    right = [int(number) for number in re.findall(rb'"label": (\d)', data)]
    assert examples.label.tolist() == right and set(right) == {0, 1}
    asked = Counter(re.findall(r'"question": "(\w+)"', data.decode()))
    for written, question in COPA_QUESTIONS.items():
        assert sum(str(text).endswith(f" {question}") for text in examples.text_a) == asked[written]
    assert examples.choices == 2 and len(examples) == rows == sum(asked.values())


def model(name: str, shared: Path, folder: Path) -> str:
    """A folder with a real tokenizer and the config of its model."""
    if name.startswith("me5"):
        return str(shared / "models" / name)
    family, lower = {"roberta-base": ("roberta", None), "xlnet-cased": ("xlnet", None)}.get(
        name, ("bert", name.endswith("uncased"))
    )
    for file in (shared / "models/tokenizers" / name).iterdir():
        (folder / file.name).symlink_to(file)
    config: dict[str, Any] = {"model_type": family, "vocab_size": 119547}
    if family == "xlnet":
        config |= {"pad_token_id": 5}
    if family == "roberta":
        config |= {"max_position_embeddings": 514, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    if lower is not None:
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


REAL = ["me5-small-32k-xlmr", "bert-base-multilingual-cased", "roberta-base", "xlnet-cased"]


@pytest.mark.parametrize("name", REAL)
def test_tags_with_real_tokenizers(name: str, shared: Path, tmp_path: Path) -> None:
    import transformers

    folder = model(name, shared, tmp_path)
    tokenizer = load_tokenizer(Model(path=folder))
    reference: Any = tokenizer
    if name == "roberta-base":
        reference = transformers.RobertaTokenizerFast.from_pretrained(folder, add_prefix_space=True)
    for file in ("dev-de", "dev-ta", "dev-bn", "dev-ur"):
        data = panx(file, shared).take(range(0, 1000, 20))
        for max_length in (16, 128):
            tokenized = tokenize(data, tokenizer, max_length, None)
            check_tags(tokenized, data, reference, max_length)


# Of 1190 answers each: how many are exactly the text of their tokens, at a max_length of 384 and a
# doc_stride of 128. The others begin or end within a token, such as `(118`, `DVB-S2.`, `Manning|s`.
EXACT = {
    ("me5-small-32k-xlmr", "en"): 1173,
    ("me5-small-32k-xlmr", "de"): 1179,
    ("me5-small-32k-xlmr", "es"): 1165,
    ("bert-base-multilingual-cased", "en"): 1189,
    ("bert-base-multilingual-cased", "de"): 1190,
    ("bert-base-multilingual-cased", "es"): 1189,
    ("roberta-base", "en"): 1177,
    ("xlnet-cased", "en"): 1189,
}


@pytest.mark.parametrize(("name", "language"), EXACT)
def test_windows_with_real_tokenizers(
    name: str, language: str, shared: Path, tmp_path: Path
) -> None:
    path = str(shared / f"data/xquad/xquad.{language}.json")
    data = read(Source(path, format="squad"), QA)
    folder = model(name, shared, tmp_path)
    tokenizer = load_tokenizer(Model(path=folder))
    tokenized = tokenize(data, tokenizer, 384, None, 128)
    held, exact = check_windows(tokenized, data, tokenizer, 384, 128)
    assert (held, exact) == (1190, EXACT[name, language])
