"""The subcommands: their modules, descriptions and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Example(NamedTuple):
    """A command line, and what it does."""

    purpose: str
    command: str


class Subcommand(NamedTuple):
    """A subcommand and the module that implements it.

    Attributes:
      module: Name of a module with `add_arguments(parser)` and `run(args)`, which returns an exit
        code. It is imported only for its subcommand, so that the others do not wait for JAX.
      summary: Description in `flaxfer --help`, and the first line of the subcommand's own.
      details: What the subcommand reads, writes and refuses; paragraphs with a blank line between.
      examples: At least one command line.
      defaults: Arguments that differ from the module's defaults.
    """

    module: str
    summary: str
    details: str
    examples: Sequence[Example]
    defaults: Mapping[str, Any] = {}


STS = "--config configs/sts_xling.py"
LOCAL = f"{STS}:local --config.data_dir=DATA --config.model.path=MODEL"

SUBCOMMANDS = {
    "init": Subcommand(
        "flaxfer.study.init",
        "write a config for your files",
        """\
        Write a complete config that names your files: their format, encoding, columns, labels and
        languages are guessed. Nothing is asked: what was guessed is printed, and what cannot be is
        a placeholder, which flaxfer check names.

        Beside reviews_de.csv, reviews_fr.csv becomes an evaluated set; beside train.csv, dev.csv
        and test.csv become the other splits.""",
        (
            Example(
                "reviews by language after an intermediate task",
                "flaxfer init study.py --target reviews_de.csv --intermediate mnli.tsv "
                "--model xlm-roberta-base/",
            ),
            Example(
                "tagged words and a model of the hub",
                "flaxfer init study.py --target train.conll --model FacebookAI/xlm-roberta-base",
            ),
        ),
    ),
    "run": Subcommand(
        "flaxfer.study.command",
        "run or resume a study, or a grid of studies",
        """\
        Train the stages that the work directory lacks, evaluate them, and write the report. The
        same command continues a stopped run, and never repeats a finished stage. It may run
        several times at once, on all machines that see the work directory: each process takes
        stages that no other process holds.

        A work directory keeps its results: seeds, conditions, evaluated sets and cells may be
        added, and settings that alter no result may change. Anything else is refused without
        --replace.""",
        (
            Example("the default preset of a config: here, the demo", f"flaxfer run {STS}"),
            Example("another preset, with data and a model of your own", f"flaxfer run {LOCAL}"),
            Example(
                "a setting of all stages that do not set their own",
                f"flaxfer run {STS} --config.optimizer.learning_rate=3e-5",
            ),
            Example(
                "a setting of one stage", f"flaxfer run {STS} --config.target.optimizer.warmup=0.2"
            ),
            Example(
                "a setting of one target of a grid",
                "flaxfer run --config configs/paper.py:local "
                "--config.targets.sentiment-domain.train.epochs=5",
            ),
        ),
    ),
    "check": Subcommand(
        "flaxfer.study.check",
        "find what a run would trip over",
        """\
        Report all mistakes together: unknown settings and wrong values, files, columns and labels
        that cannot be read, models and tokenizers that do not load, folders that cannot be written.
        Nothing is trained. --check=config reads the settings alone.""",
        (
            Example("a config with its data and models", f"flaxfer check {LOCAL}"),
            Example("the settings alone", f"flaxfer check {STS} --check=config"),
        ),
    ),
    "plan": Subcommand(
        "flaxfer.study.planning",
        "list stages with times, or what studies can decide",
        """\
        List the stages of a study or a grid: finished ones, pending ones, and how long these may
        take. With variances, of a finished study or stated, list instead which differences the
        planned seeds and evaluated sets can find, and what would be needed to find smaller ones.
        Nothing is trained.""",
        (
            Example("the stages of a study", f"flaxfer plan {LOCAL}"),
            Example(
                "what can be decided, by the variances of a finished study",
                f"flaxfer plan {LOCAL} --pilot runs/NAME",
            ),
            Example(
                "what can be decided, by stated numbers",
                f"flaxfer plan {LOCAL} --sd 0.02 --score 0.8 --correlation 0.6",
            ),
        ),
    ),
    "report": Subcommand(
        "flaxfer.report.command",
        "rebuild the report of a study, or combine several",
        """\
        Write the report of one work directory again, into the same folder unless --output names
        another. A report of several work directories needs --output; its p values are corrected
        over all of them. Nothing is trained or predicted.""",
        (
            Example("one study or grid", "flaxfer report runs/NAME"),
            Example(
                "several in one report",
                "flaxfer report runs/NAME1 runs/NAME2 --output runs/both",
            ),
            Example("more statistics", "flaxfer report runs/NAME --descriptive"),
            Example(
                "to publish, without texts of the data",
                "flaxfer report runs/NAME --output OUT --no-examples",
            ),
        ),
    ),
    "export": Subcommand(
        "flaxfer.interop.export",
        "export a finished stage for transformers",
        """\
        Write the best checkpoint of a finished stage as a Hugging Face folder: config.json,
        model.safetensors, the tokenizer, and a model card. The stage is named by its folder, or
        selected from a work directory.

        --push-to-hub uploads the folder to a new repository, or with --overwrite in place of what
        the repository holds. It asks whether somebody is logged in before it exports anything.""",
        (
            Example(
                "a target stage of a study",
                "flaxfer export runs/NAME OUT --condition staged --seed 0",
            ),
            Example(
                "its intermediate stage",
                "flaxfer export runs/NAME OUT --condition staged --seed 0 --stage intermediate",
            ),
            Example("a stage by its folder", "flaxfer export runs/NAME/stages/IDENTITY OUT"),
            Example(
                "the adapters of a stage that was trained with lora, for peft",
                "flaxfer export runs/NAME OUT --condition direct --seed 0 --adapter",
            ),
            Example(
                "on the hub",
                "flaxfer export runs/NAME OUT --condition staged --seed 0 --push-to-hub ME/MODEL "
                "--license apache-2.0 --base-model FacebookAI/xlm-roberta-base",
            ),
        ),
    ),
    "predict": Subcommand(
        "flaxfer.interop.predict",
        "predict texts, pairs, words, answers or choices",
        """\
        Predict the examples of a file, or of standard input, with an exported folder, or another
        one of transformers with a head for a task. The output has a JSON object per example.

        A column is read if it is named like its role: text_a, text_b (pairs; the context of a
        question), words (a list), choice_1 and so on, question, id, language, domain. --columns
        names others. Standard input and files that end in .txt have a text on each line, or words
        with blanks between them, unless --source says otherwise.""",
        (
            Example("to a file", "flaxfer predict OUT texts.jsonl --output predictions.jsonl"),
            Example(
                "a file with more columns, printed",
                "flaxfer predict OUT reviews.csv --ignore-columns stars shop",
            ),
            Example(
                "a file as Excel writes it, and its texts in the output",
                "flaxfer predict OUT kunden.csv --columns text_a=Text id=Nummer "
                "--source delimiter=';' encoding=cp1252 --text",
            ),
            Example("a text on each line of standard input", "flaxfer predict OUT - --text"),
        ),
    ),
    "embed": Subcommand(
        "flaxfer.interop.embed",
        "score sentence embeddings without training",
        """\
        Embed texts with a pretrained encoder, and print the scores of the layers: the correlation
        of cosines with the scores of pairs (sts), or how often the nearest neighbour is the
        translation (retrieval).""",
        (
            Example(
                "similarity of pairs, by layer",
                "flaxfer embed sts --model FOLDER --data stsb-de-test.csv --columns 0,1,2 "
                "--layers all",
            ),
            Example(
                "translations, with the prefix that E5 models need",
                "flaxfer embed retrieval --model FOLDER --source a.txt --target b.txt "
                "--prefix 'query: '",
            ),
        ),
    ),
    "convert": Subcommand(
        "flaxfer.interop.convert",
        "convert pytorch_model.bin to safetensors",
        """\
        Convert the weights of a model folder, sharded or not, into a new folder. This needs
        torch>=2.6, which opens the files with unpickling restricted to arrays.""",
        (Example("a folder", "flaxfer convert FOLDER OUT --allow-torch"),),
    ),
    "aot": Subcommand(
        "flaxfer.aot.command",
        "compile a study's steps for another accelerator",
        """\
        Compile the train and eval steps of a stage for TPU v5e, v5p or v6e (extra tpu), or for
        H100 (extra cuda), without the accelerator, and report whether they fit. All times are
        estimates from the compiler's cycles.

        The exit code is 0 if the steps fit into the accelerator's memory, 1 if they do not, and 69
        if its compiler is not installed.""",
        (
            Example(
                "eight chips, with a mesh in place of the config's",
                f"flaxfer aot {LOCAL} --topology v5e:8 --mesh data=4,fsdp=2",
            ),
            Example(
                "the fastest mesh that fits", f"flaxfer aot {LOCAL} --topology v5e:2x4 --search"
            ),
            Example(
                "without the model and its data",
                f"flaxfer aot {STS}:base --topology v6e:16 --model-config config.json --rows 32 "
                "--examples-per-row 4",
            ),
        ),
    ),
    "xtreme": Subcommand(
        "flaxfer.xtreme.command",
        "score predictions on XTREME and XTREME-R",
        """\
        Score a folder of predictions of any system, in two modes that are named beside every
        number: what the published script computes, and the same without its faults. Missing tasks,
        languages and lines are named. The exit code is 3 if a file that is there cannot be scored.

        Folders are those of the published script: a folder for each task, with a file for each
        language. LAReQA, which it does not score, has a ranking for each question, as Mewsli-X.

        `xtreme lareqa` scores an encoder on LAReQA in the pools of its paper: among the candidates
        of all languages, and of each pair of languages.""",
        (
            Example("a submission", "flaxfer xtreme score PREDICTIONS LABELS"),
            Example(
                "to files: all scores, and predictions that the published script reads",
                "flaxfer xtreme score PREDICTIONS LABELS --json scores.json --output FOLDER",
            ),
            Example("a dual encoder on LAReQA", "flaxfer xtreme lareqa EXPORT XQUAD_R"),
        ),
    ),
    "list": Subcommand(
        "flaxfer.study.listing",
        "list the studies of a folder, with their verdicts",
        """\
        List the studies below a folder, the newest first, with state, date, seeds and verdict. Only
        files are read. A study is running if a process on this machine or another one has sent a
        heartbeat within a minute.""",
        (
            Example("the studies below runs/", "flaxfer list"),
            Example("one study", "flaxfer list runs/NAME"),
        ),
    ),
}
