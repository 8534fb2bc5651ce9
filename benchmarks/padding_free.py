"""Batches of transformers without padding, and a model that classifies their examples.

`DataCollatorWithFlattening` makes one sequence of a batch, and flash attention keeps its examples
apart. The classifiers of transformers read the first token of a sequence only, so `PaddingFree`
reads the first token of every example. Without flash attention, a block-diagonal mask does the
same, at a cost that grows with the square of the batch: good for a comparison of values.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

FLASH = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""What flash attention has to know about the examples of a sequence."""


def concatenate(features: list[dict[str, Any]], position_start: int = 0) -> dict[str, Any]:
    """Return a batch as one sequence, with the labels of its examples.

    Args:
      features: tokenized examples with `labels`.
      position_start: position of the first token, 2 for the RoBERTa family.
    """
    collate = transformers.DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, position_ids_start=position_start
    )
    batch = dict(collate([{"input_ids": record["input_ids"]} for record in features]))
    del batch["labels"]  # Of tokens.
    if "token_type_ids" in features[0]:
        types = [i for record in features for i in record["token_type_ids"]]
        batch["token_type_ids"] = torch.tensor([types])
    # First, because the Trainer takes its length for the number of examples.
    return {"labels": torch.tensor([record["labels"] for record in features])} | batch


def position_start(config: transformers.PretrainedConfig) -> int:
    """Return the position of the first token."""
    return config.pad_token_id + 1 if "roberta" in config.model_type else 0


class PaddingFree(torch.nn.Module):
    """A sequence classifier or regressor of transformers for batches of `concatenate`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(
        self,
        labels: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seq_lens_q: torch.Tensor,
        cu_seq_lens_k: torch.Tensor,
        max_length_q: int,
        max_length_k: int,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the mean loss and the logits of each example."""
        attention: dict[str, Any] = dict(
            zip(FLASH, (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k), strict=True)
        )
        if self.config._attn_implementation != "flash_attention_2":
            place = torch.arange(input_ids.shape[1], device=input_ids.device)
            example = torch.searchsorted(cu_seq_lens_q[1:], place, right=True)
            attention = {"attention_mask": (example[:, None] == example)[None, None]}
        encoder = self.model.base_model
        hidden = encoder(
            input_ids, token_type_ids=token_type_ids, position_ids=position_ids, **attention
        )[0]
        first = hidden[0, cu_seq_lens_q[:-1].long()][:, None]  # As if each were a sequence.
        if getattr(encoder, "pooler", None) is not None:
            first = self.model.dropout(encoder.pooler(first))
        logits = self.model.classifier(first)
        if self.config.problem_type == "regression":
            loss = torch.nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        else:
            loss = torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}
