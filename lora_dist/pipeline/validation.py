"""The loss that early stopping goes by: measured as the arms are, on the validation split."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import nn
from transformers import PreTrainedTokenizerBase

from lora_dist.config.classification import is_classification
from lora_dist.config.experiment import Run
from lora_dist.data.tokens import TokenRows, TokenSet
from lora_dist.evaluation.classes import score_classes
from lora_dist.evaluation.perplexity import score_rows
from lora_dist.team import Team


def validation_loss(
    run: Run, tokens: TokenSet, tokenizer: PreTrainedTokenizerBase, team: Team
) -> Callable[[nn.Module], float]:
    """Measures a live model: nats per scored token of the validation split, of a classification per row.

    The ranks of the team share the rows, and each gets the same number. The model's training flags and the random
    state are left as they were.
    """
    batch_size = run.evaluate.batch_size

    @cache
    def rows() -> TokenRows:
        return tokens.rows("validation")  # most runs never ask

    def of_classes(model: nn.Module) -> float:
        scores = score_classes(model, rows(), pad_token_id=tokenizer.pad_token_id, batch_size=batch_size, team=team)
        return float(scores.nll_R.mean())

    def of_tokens(model: nn.Module) -> float:
        scores = score_rows(model, rows(), batch_size=batch_size, team=team)
        return scores.nll_sum / scores.scored_tokens

    return of_classes if is_classification(run) else of_tokens
