r"""Effect of intermediate tasks on the tasks of XTREME-R: all targets in one grid.

XTREME-R (Ruder et al. 2021) trains in English and evaluates up to 50 languages zero-shot. The
intermediate tasks before it follow Phang et al. (2020): natural language inference (MNLI),
paraphrases (QQP), social reasoning (Social IQa), question answering (SQuAD 1.1) and similarity
(STS benchmark), each against training without one (`direct`). Stages are shared: a target is
trained once without an intermediate task, and an intermediate task once for all targets.

  target   trained on                  evaluated on
  xnli     MNLI                        XNLI, 15 languages
  xcopa    English COPA                XCOPA, 11 languages
  udpos    English UD                  UD-POS, 38 languages
  panx     English WikiANN             WikiANN, 48 languages
  xquad    SQuAD 1.1                   XQuAD, 12 languages, and MLQA, 7 languages
  tydiqa   English TyDiQA-GoldP        TyDiQA-GoldP, 9 languages
  tatoeba  nothing                     Tatoeba, 41 languages: English sentences to translations, by
                                       the mean of a layer's tokens
  lareqa   SQuAD 1.1, sentences        LAReQA, 11 languages: questions to the sentences that answer
                                       them, in one pool
  mewslix  English Wikipedia's links   Mewsli-X, 11 languages: mentions to their entities, among
                                       1,003,893 candidates in 50 languages

The report has the table of the benchmark: tasks by condition, means, transfer gaps, families,
scripts and resource levels of the languages, with intervals and verdicts. It counts UD-POS by
accuracy, as in the paper, and a task of question answering by the mean of exact match and F1.

Deviations. The official XCOPA model learns Social IQa first, then COPA: that is the condition
`siqa` here, and the others lack it. The checkpoint is the one with the best dev score after an
epoch, for all tasks. English TyDiQA-GoldP is divided 90/10 into train and dev, because its dev set
is evaluated. Tatoeba counts translations that differ only in case, punctuation and spaces as one;
its stage takes one step that leaves the encoder as it is. In LAReQA, wrong sentences are those of
all 16 questions of a batch; the published script has four parts of four. Its scale is trained by
its logarithm. So it is in Mewsli-X, where the published script has parts of 64 (8 with XLM-R large)
of batches of 256 (32).

Presets
  hub        Full data sets, official settings, XLM-R base, five seeds. Tatoeba by layer 7, as for
             mBERT (13 with XLM-R large). UD-POS without lt, pl, uk, wo and ro, which the hub's copy
             of XTREME lacks. LAReQA is read from DATA, the folder that XTREME's
             scripts/download_data.sh fills: squad/{train,dev}-v1.1.json (of SQuAD-explorer), and
             lareqa/xquad-r/*.json (of github.com/google-research-datasets/lareqa), since the hub's
             copy lacks the sentence breaks. Mewsli-X is read from DATA/mewslix, where you put what
             its get-mewsli-x.sh writes (docs/guides/xtreme.md): candidate_set_entities.jsonl,
             wikipedia_pairs-{train,dev}.jsonl and wikinews_mentions-test.jsonl, not the copies of
             XTREME's script, which have no labels. Without these files, take `lareqa` or `mewslix`
             out of hub.py.
  hub_large  Like hub, with XLM-R large; the learning rate is 3e-5 for XNLI, XCOPA and intermediate
             tasks of sentences.
  hub_mbert  Like hub, with multilingual BERT.
  local      A folder with published data sets (copa, glue-samples, mlqa, panx, siqa, squad,
             stsb-multi-mt, tatoeba, tydiqa-goldp, ud-pud, udpos, xcopa, xnli, xquad) and an XLM-R.
             Sized for two CPU cores (see Time): 2,000 examples of each intermediate task (1,000 of
             SQuAD), 400 to 1,000 of each target, three seeds, texts truncated to 128 tokens
             (windows of 256), no dropout; samples of 40 to 150 examples of every test set. XNLI and
             MLQA are evaluated on their dev sets, WikiANN on its dev sets in 9 languages, UD-POS in
             19 languages (on dev sets in en, ja, uk, wo and zh), TyDiQA-GoldP in 7. Tatoeba is
             searched in samples, 150 sentences in 36 languages, by the last layer. The folder has
             no training set of Social IQa: its test set is trained on.
  demo       Embedded sentences, made of templates in English, German, Italian and Indonesian, for
             six targets after paraphrases, and weights from an installed package. The scores mean
             nothing: the preset shows the grid and its report.

Commands
  python -m flaxfer.main --config configs/xtreme_r.py
  python -m flaxfer.main --config configs/xtreme_r.py:local \
      --config.data_dir=DATA --config.models.xlmr.path=XLMR
  python -m flaxfer.main --config configs/xtreme_r.py:hub --config.data_dir=DATA

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected (local, see docs/xtreme_r): STS-B before the target lowers the mean over eight tasks from
34.5 to 25.2 percent, most of all the search for translations. Nothing else is decided.
Time
  local  Two hours and 45 minutes on two cores of an AMD EPYC with bfloat16 instructions, beside
         other work. 135 stages train on 12.5 million tokens and evaluate 16 million.
  demo   Four minutes of one core; ten minutes on two cores shared with four other runs.
  hub    Needs an accelerator.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from xtreme_data.demo import demo
from xtreme_data.hub import MODELS, hub
from xtreme_data.local import local


def get_config(preset: str = "demo") -> ConfigDict:
    """Return the grid of a preset."""
    presets = {name: lambda name=name: hub(name) for name in MODELS}
    presets |= {"local": local, "demo": demo}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    return ConfigDict(dict(name=f"xtreme_r-{preset}") | presets[preset]())
