"""The shipped modules of `evaluate`: loaded by path without network, equal to their libraries and to the report's."""

from __future__ import annotations

import random

import evaluate
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from test_text_metrics import perturbed, references_of

from lora_dist.evaluation.class_metrics import METRICS, Tally, confusion
from lora_dist.evaluation.metric_module import METRIC_MODULES, metric_path
from lora_dist.evaluation.text_metrics import ROUGE_KEYS, exact_number, token_f1


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """evaluate copies a module that it loads into one package, whose place it settles once for a process."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("evaluate.config", "evaluate.loading", "evaluate.utils.file_utils"):
            patch.setattr(f"{module}.HF_MODULES_CACHE", folder, raising=False)
        yield


def load(name, tmp_path):
    return evaluate.load(str(metric_path(name)), cache_dir=str(tmp_path / "cache"))


def test_there_is_a_file_for_each_and_a_wrong_name_is_told():
    assert all(metric_path(name).is_file() for name in METRIC_MODULES)
    with pytest.raises(ValueError, match="'rogue' is not one of exact_match, token_f1, rouge, bleu, classification"):
        metric_path("rogue")


def test_text_metrics_equal_their_libraries(tmp_path):
    references = references_of("made")
    chance = random.Random(3)
    texts = {"predictions": [perturbed(one, chance) for one in references], "references": references}
    pairs = list(zip(texts["predictions"], references, strict=True))
    rouge = load("rouge", tmp_path).compute(**texts)
    theirs = [RougeScorer(ROUGE_KEYS).score(reference, prediction) for prediction, reference in pairs]
    assert rouge == pytest.approx({key: np.mean([one[key].fmeasure for one in theirs]) for key in ROUGE_KEYS})
    bleu = load("bleu", tmp_path).compute(**texts)
    assert bleu == {"bleu": BLEU().corpus_score(texts["predictions"], [references]).score}
    f1 = load("token_f1", tmp_path).compute(**texts)["f1"]
    assert f1 == pytest.approx(np.mean([token_f1(*pair) for pair in pairs]))
    exact = load("exact_match", tmp_path)
    numbers = exact.compute(**texts, numbers=True)["exact_match"]
    assert numbers == np.mean([exact_number(*pair) for pair in pairs])
    assert exact.compute(predictions=["The cat!", "a"], references=["cat", "b"]) == {"exact_match": 0.5}


def test_classification_is_scikit_learns_and_the_reports(tmp_path):
    random_ = np.random.default_rng(0)
    labels_R, predicted_R = random_.integers(0, 3, 300), random_.integers(0, 3, 300)
    found = load("classification", tmp_path).compute(predictions=predicted_R.tolist(), references=labels_R.tolist())
    ours = confusion(labels_R, predicted_R, 3)
    assert found["confusion"] == ours.tolist()
    for name, value in METRICS.items():
        assert found[name] == pytest.approx(float(np.ravel(value(Tally.of(ours[None])))[0])), name
