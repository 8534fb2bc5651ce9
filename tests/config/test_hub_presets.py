"""The presets that read from the hub: ids, revisions, subsets, splits, columns and labels.

`CARDS` holds what the data sets' cards say, written down apart from the configs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import huggingface_hub.constants
import pytest
from datasets import ClassLabel, Features, Sequence, Value

from flaxfer.config import Source, Stage, Task, loading
from flaxfer.config.grids import Grid
from flaxfer.data.hub import read_hub
from flaxfer.data.sources import read_source
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES, task_type


def words(text: str) -> list[str]:
    return text.split()


CONFIGS = Path(__file__).parents[2] / "configs"
PARQUET = "refs/convert/parquet"
STRING, NUMBER, SCORE = Value("string"), Value("int64"), Value("float64")
STS_LANGUAGES = {"en", "de", "es", "fr", "it", "nl", "pl", "pt", "ru", "zh", "ja"}
UD_LANGUAGES = words(
    "Afrikaans Arabic Basque Bulgarian Chinese Dutch English Estonian Finnish French German Greek "
    "Hebrew Hindi Hungarian Indonesian Italian Japanese Kazakh Korean Marathi Persian Portuguese "
    "Russian Spanish Tagalog Tamil Telugu Thai Turkish Urdu Vietnamese Yoruba"
)
# Of the 282 languages of the card, those of XTREME-R.
WIKIANN_LANGUAGES = words(
    "af ar az bg bn de el en es et eu fa fi fr gu he hi hu id it ja jv ka kk ko lt ml mr ms my nl "
    "pa pl pt qu ro ru sw ta te th tl tr uk ur vi yo zh"
)
TATOEBA_LANGUAGES = words(
    "afr ara aze ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor lit "
    "mal mar nld pes pol por ron rus spa swh tam tel tgl tha tur ukr urd vie"
)
TAGS = words("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X")
ENTITIES = words("O B-PER I-PER B-ORG I-ORG B-LOC I-LOC")
ANSWERS = {"text": Sequence(STRING), "answer_start": Sequence(Value("int32"))}
QUESTIONS = {"id": STRING, "context": STRING, "question": STRING, "answers": ANSWERS}
CHOICES = {"premise": STRING, "choice1": STRING, "choice2": STRING, "question": STRING}


class Card(NamedTuple):
    """Contents of a card.

    Attributes:
      splits: Names by subset; the only subset of a set is "", or "default" on the parquet branch.
      features: Type by column.
      meaning: Label by number, where the column holds numbers; empty for one that is dropped.
    """

    splits: Mapping[str, set[str]]
    features: Mapping[str, Any]
    meaning: Mapping[Any, str] = {}


def each(subsets: Collection[str], *splits: str) -> dict[str, set[str]]:
    return {subset: set(splits) for subset in subsets}


STANCE = {0: "negative", 1: "positive"}
CARDS = {
    ("PhilipMay/stsb_multi_mt", "*"): Card(
        each(STS_LANGUAGES, "train", "validation", "test"),
        {"sentence1": STRING, "sentence2": STRING, "similarity_score": Value("float32")},
    ),
    ("SetFit/CR", "*"): Card(
        each({"default"}, "train", "test"),
        {"text": STRING, "label": NUMBER, "label_text": STRING},
        STANCE,
    ),
    ("allenai/social_i_qa", "*"): Card(
        each({"default"}, "train", "validation"),
        {"context": STRING, "question": STRING, "label": STRING}
        | {f"answer{letter}": STRING for letter in "ABC"},
        {"1": 0, "2": 1, "3": 2},
    ),
    ("aps/super_glue", "copa"): Card(
        each({"copa"}, "train", "validation", "test"),
        CHOICES | {"idx": Value("int32"), "label": ClassLabel(names=["choice1", "choice2"])},
    ),
    ("cambridgeltl/xcopa", "*"): Card(
        each(words("et ht id it qu sw ta th tr vi zh"), "validation", "test"),
        CHOICES | {"label": Value("int32"), "idx": Value("int32"), "changed": Value("bool")},
    ),
    ("facebook/xnli", "*"): Card(
        each(words("ar bg de el en es fr hi ru sw th tr ur vi zh"), "train", "validation", "test"),
        {
            "premise": STRING,
            "hypothesis": STRING,
            "label": ClassLabel(names=["entailment", "neutral", "contradiction"]),
        },
    ),
    ("fancyzhx/amazon_polarity", "*"): Card(
        each({""}, "train", "test"),
        {"label": ClassLabel(names=["negative", "positive"]), "title": STRING, "content": STRING},
    ),
    ("google/xquad", "*"): Card(
        each(
            {f"xquad.{code}" for code in words("ar de el en es hi ro ru th tr vi zh")},
            "validation",
        ),
        QUESTIONS,
    ),
    ("google-research-datasets/tydiqa", "*"): Card(
        each({"secondary_task"}, "train", "validation"), {"title": STRING} | QUESTIONS
    ),
    **{
        ("google/xtreme", f"udpos.{language}"): Card(
            each({f"udpos.{language}"}, "train", "validation", "test"),
            {"tokens": Sequence(STRING), "pos_tags": Sequence(ClassLabel(names=TAGS))},
        )
        for language in UD_LANGUAGES
    },
    **{
        ("google/xtreme", f"MLQA.{code}.{code}"): Card(
            each({f"MLQA.{code}.{code}"}, "validation", "test"), {"title": STRING} | QUESTIONS
        )
        for code in words("ar de en es hi vi zh")
    },
    ("mteb/AmazonReviewsClassification", "*"): Card(
        each(words("de en es fr ja zh"), "train", "validation", "test"),
        {"id": STRING, "text": STRING, "label": NUMBER, "label_text": STRING},
        {0: "negative", 1: "negative", 2: "", 3: "positive", 4: "positive"},
    ),
    ("mteb/DutchBookReviewSentimentClassification", "*"): Card(
        each({""}, "train", "test"), {"text": STRING, "label": NUMBER}, STANCE
    ),
    ("mteb/biosses-sts", "*"): Card(
        each({""}, "test"), {"sentence1": STRING, "sentence2": STRING, "score": SCORE}
    ),
    ("mteb/stsbenchmark-sts", "*"): Card(
        each({""}, "train", "validation", "test"),
        {"genre": STRING, "score": SCORE, "sentence1": STRING, "sentence2": STRING},
    ),
    ("mteb/tatoeba-bitext-mining", "*"): Card(
        each({f"{code}-eng" for code in TATOEBA_LANGUAGES}, "test"),
        {"sentence1": STRING, "sentence2": STRING},
    ),
    ("mteb/tweet_sentiment_multilingual", "*"): Card(
        each({""}, "train", "validation", "test"),
        {"text": STRING, "label": NUMBER, "lang": STRING},
        {0: "negative", 1: "neutral", 2: "positive"},
    ),
    ("nyu-mll/glue", "mnli"): Card(
        each({"mnli"}, "train", "validation_matched", "validation_mismatched"),
        {
            "premise": STRING,
            "hypothesis": STRING,
            "label": ClassLabel(names=["entailment", "neutral", "contradiction"]),
        },
    ),
    ("nyu-mll/glue", "qqp"): Card(
        each({"qqp"}, "train", "validation"),
        {
            "question1": STRING,
            "question2": STRING,
            "label": ClassLabel(names=["not_duplicate", "duplicate"]),
        },
    ),
    ("rajpurkar/squad", "*"): Card(
        each({""}, "train", "validation"), {"title": STRING} | QUESTIONS
    ),
    ("stanfordnlp/imdb", "*"): Card(
        each({""}, "train", "test"), {"text": STRING, "label": ClassLabel(names=["neg", "pos"])}
    ),
    ("stanfordnlp/sst2", "*"): Card(
        each({""}, "train", "validation"),
        {
            "idx": Value("int32"),
            "sentence": STRING,
            "label": ClassLabel(names=["negative", "positive"]),
        },
    ),
    ("unimelb-nlp/wikiann", "*"): Card(
        each(WIKIANN_LANGUAGES, "train", "validation", "test"),
        {
            "tokens": Sequence(STRING),
            "ner_tags": Sequence(ClassLabel(names=ENTITIES)),
            "langs": Sequence(STRING),
            "spans": Sequence(STRING),
        },
    ),
}
MEANING = {
    "neg": "negative",
    "pos": "positive",
    "not_duplicate": "different",
    "duplicate": "paraphrase",
    "choice1": 0,
    "choice2": 1,
}
"""Task label, or index of the choice, by name of a class where the two differ."""


def card_of(source: Source) -> Card:
    return CARDS.get((source.hub, source.subset)) or CARDS[source.hub, "*"]


def presets() -> Iterator[str]:
    for path in sorted(CONFIGS.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name in ("hub", "hub_trained", "base", "large"):
            if re.search(rf'"{name}": ', text):
                yield f"{path}:{name}"
    yield from (f"{CONFIGS}/xtreme_r.py:{name}" for name in ("hub", "hub_large", "hub_mbert"))


PRESETS = list(presets())
SAME_DATA = (":hub_large", ":hub_mbert")
"""Ends of presets that differ from another one in the model."""


def stages(file: str) -> list[Stage]:
    built = loading.load_any(file, TASK_TYPES)
    if isinstance(built, Grid):
        return [*built.intermediates.values(), *built.targets.values()]
    return [stage for stage in (built.intermediate, built.target) if stage]


def every_source(file: str) -> Iterator[tuple[Source, Task]]:
    for stage in stages(file):
        for part in (stage.data.train, stage.data.dev, stage.data.test, stage.evaluate.values()):
            for source in part:
                if source.hub:
                    yield source, stage.task


def records(card: Card, source: Source) -> dict[str, list[Any]]:
    """Records of a card: one for each of its labels, or two, with numbers that differ."""
    columns: dict[str, list[Any]] = {}
    label = card.features.get("label")
    classes = len(label.names) if isinstance(label, ClassLabel) else len(card.meaning) or 2
    for name, feature in card.features.items():
        if name == "answers":
            columns[name] = [{"text": ["t"], "answer_start": [0]}] * classes
        elif isinstance(feature, ClassLabel):
            columns[name] = list(range(classes))
        elif name == "label" and isinstance(feature, Value) and feature.dtype == "string":
            columns[name] = list(card.meaning)
        elif isinstance(feature, Value) and feature.dtype == "string":
            columns[name] = [f"text {i}" for i in range(classes)]
        elif isinstance(feature, Value):
            columns[name] = list(range(classes))  # Ids, which differ.
        else:
            names = getattr(feature.feature, "names", None)
            columns[name] = [list(range(len(names))) if names else ["a"]] * classes
    if "tokens" in columns:
        tags = columns[source.columns["tags"]][0]
        columns["tokens"] = [["w"] * len(tags)] * classes
    if "question" in columns and "choice1" in columns:
        columns["question"] = ["cause", "effect"]
    for name, values in source.keep.items():
        column = source.columns.get(name, name)
        columns[column] = [values[0]] * classes
    for name, values in source.keep_prefix.items():
        column = source.columns.get(name, name)
        columns[column] = [f"{values[0]}{i}" for i in range(classes)]
    return columns


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub with the data sets of the cards."""

    def load_dataset(
        path: str, split: str, revision: str, name: str | None = None, data_dir: str | None = None
    ) -> Any:
        subset = data_dir if revision == PARQUET else name or ""
        card = CARDS.get((path, subset)) or CARDS[path, "*"]
        assert split in card.splits[subset], f"{path}, {subset}: no split {split!r}"
        source = SOURCE["source"]
        return datasets.Dataset.from_dict(records(card, source), Features(dict(card.features)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


SOURCE: dict[str, Source] = {}
"""The source that the fixture `hub` is asked for."""


@pytest.mark.parametrize(
    "file",
    [file for file in PRESETS if not file.endswith(SAME_DATA)],
    ids=lambda file: Path(file).stem + file[-5:],
)
@pytest.mark.usefixtures("hub")
def test_every_source_of_a_hub_preset_is_read_as_its_card_says(file: str) -> None:
    done = []
    for source, task in every_source(file):
        if source in done:
            continue
        done.append(source)
        SOURCE["source"] = source
        card = card_of(source)
        kind = task_type(task)
        examples = read_source(Source(**{**vars(source), "fraction": 1.0}), task, kind, "")
        label = card.features.get("label")
        if task.type == "classification":
            names = label.names if isinstance(label, ClassLabel) else list(card.meaning.values())
            expected = [MEANING.get(name, name) for name in names if name]
            assert [task.labels[i] for i in examples.label] == expected, source
        elif task.type in ("multiple_choice", "regression"):
            assert list(examples.label) == list(range(len(card.meaning) or 2)), source
        elif task.type == "tagging":
            names = TAGS if "pos_tags" in card.features else ENTITIES
            assert [task.labels[i] for i in examples.label[0]] == names, source
    assert done


def test_every_hub_id_has_a_revision_and_every_card_is_used() -> None:
    used, models = set(), set()
    for file in PRESETS:
        for source, _ in every_source(file):
            assert source.revision == PARQUET or re.fullmatch("[0-9a-f]{40}", source.revision)
            used.add((source.hub, source.subset))
        built = loading.load_any(file, TASK_TYPES)
        for model in built.models.values() if isinstance(built, Grid) else (built.model,):
            assert re.fullmatch("[0-9a-f]{40}", model.revision), model
            models.add(model.hub)
    assert {hub for hub, _ in used} == {hub for hub, _ in CARDS}
    assert "xlnet/xlnet-base-cased" in models and "FacebookAI/xlm-roberta-large" in models
    # No id escapes the table of revisions.
    for path in CONFIGS.rglob("*.py"):
        assert not re.search(r"""hub=["']""", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("subset", "split", "texts"),
    [("de", "train", ["de train"]), ("en", "validation", ["en dev"]), ("", "train", ["train"])],
)
def test_a_subset_of_the_parquet_branch_is_read_alone(
    subset: str, split: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders are as the hub makes them, and read by the datasets library itself."""
    for folder in ("en", "de", "default"):
        for name in ("train", "dev"):
            file = tmp_path / "hub" / "owner" / "set" / folder / name / "0000.parquet"
            file.parent.mkdir(parents=True)
            text = name if folder == "default" else f"{folder} {name}"
            datasets.Dataset.from_dict({"text": [text]}).to_parquet(file)
    real = datasets.load_dataset

    def load_dataset(path: str, *, revision: str, **words: Any) -> Any:
        assert revision == PARQUET
        return real(str(tmp_path / "hub" / path), cache_dir=str(tmp_path / "cache"), **words)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = Source(
        hub="owner/set", subset=subset, split=split, revision=PARQUET, columns={"text_a": "text"}
    )
    assert read_hub(source, ["text"]).columns["text"].values == texts
    with pytest.raises(DataError, match="dev"):
        read_hub(Source(**{**vars(source), "split": "dev"}), ["text"])
