"""CLIP's frozen text encoder behind learnable prompt tokens (paper §3.1, §3.6.1)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError

from .clip import load_clip
from .tokens import TextTokens

NOISE = 0.02  # standard deviation of CLIP's own token embeddings before its training


class PromptedTextEncoder(nn.Module):
    """tokens = [SOS] p_1 … p_P [phrase] . [EOS] → unit embeddings of every class.

    CLIP's text encoder (``tower``) is frozen: gradients reach the prompt tokens p, not its weights. Sequences are cut
    to the longest prompt. In evaluation the embeddings are computed once and kept. Those of the fixed prompt are never
    trained, so they are also kept in training. Embeddings are computed again if classes change, weights are loaded or
    moved, or training begins or ends. Code that writes weights in another way must call :func:`weights_changed`.
    """

    tower: "_TextTransformer"
    phrase_class: Tensor  # (K,): the class that each phrase describes
    _cache: tuple[tuple, TextFeatures] | None
    _fixed_cache: tuple[tuple, Tensor] | None

    def __init__(
        self,
        clip: Any,
        tokens: TextTokens,
        class_phrases: Sequence[Sequence[str]],
        *,
        num_prompts: int = 8,
        prompt_init: str = "this is a clear photo that shows a",
        template: str = "a photo of a {}.",
    ):
        """
        Args:
            clip: an open_clip ``CLIP`` or ``CustomTextCLIP``; its text encoder is used.
            tokens: its tokenizer.
            class_phrases: the names or descriptions of every class.
            num_prompts: number of learnable tokens; 0: only the fixed template.
            prompt_init: the learnable tokens start as the last ``num_prompts`` tokens of this text; empty: as noise.
            template: the fixed prompt of the prototypes; {} is the phrase.
        """
        super().__init__()
        self.tower = _TextTransformer(clip)
        self.tower.requires_grad_(False)
        self.tokens = tokens
        self.template = template
        self.num_prompts = num_prompts
        self.prompts: nn.Parameter | None = None
        if num_prompts:
            self.prompts = nn.Parameter(self._initial_prompts(tokens.encode(prompt_init), num_prompts))
        self.set_classes(class_phrases)

    @torch.no_grad()
    def _initial_prompts(self, words: list[int], count: int) -> Tensor:
        """(count, width): the last ``count`` tokens, repeated if they are too few; noise if there are none."""
        if not words:
            return NOISE * torch.randn(count, self.tower.token_embedding.embedding_dim)
        repeated = (words * (count // len(words) + 1))[-count:]
        return self.tower.token_embedding(torch.tensor(repeated)).float().clone()

    def set_classes(self, class_phrases: Sequence[Sequence[str]]) -> None:
        """Set new descriptions of the classes, for example names that were never trained."""
        phrases = [phrase for one_class in class_phrases for phrase in one_class]
        if not all(len(one_class) for one_class in class_phrases):
            raise UserError("every class needs at least one phrase that names it.")
        device = self.tower.positional_embedding.device
        owner = [c for c, one_class in enumerate(class_phrases) for _ in one_class]
        self.num_classes = len(class_phrases)
        self.register_buffer("phrase_class", torch.tensor(owner, device=device), persistent=False)
        prompted = [f"{phrase}." for phrase in phrases] if self.num_prompts else self._templated(phrases)
        self._set_tokens("prompted", prompted, placeholders=self.num_prompts, device=device)
        self._set_tokens("fixed", self._templated(phrases), placeholders=0, device=device)
        self._kept: tuple[tuple, TextFeatures] | None = None
        self._kept_fixed: tuple[tuple, Tensor] | None = None

    def forget(self) -> None:
        """Forget the kept embeddings. Those of the fixed prompt are computed again only if the encoder changed."""
        self._kept = None

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()

    def _apply(self, *args, **kwargs) -> "PromptedTextEncoder":
        self.forget()
        return super()._apply(*args, **kwargs)

    def _templated(self, phrases: Sequence[str]) -> list[str]:
        return [self.template.format(phrase) for phrase in phrases]

    def _set_tokens(self, name: str, texts: Sequence[str], placeholders: int, device: torch.device) -> None:
        """Keep the token ids (K, n) of the texts, and the position (K,) where each embedding is read."""
        encode, prefix, suffix, pad = self.tokens
        hole = [pad] * placeholders  # overwritten by the learnable tokens
        rows = [[*prefix, *hole, *encode(text), *suffix] for text in texts]
        length = max(len(row) for row in rows)
        if length > self.tower.context_length:
            longest = max(texts, key=lambda text: len(encode(text)))
            raise UserError(
                f"the phrase '{longest}' with its prompt has {length} tokens; CLIP's text encoder takes "
                f"{self.tower.context_length}: shorten it."
            )
        if self.tower.reads_padding:
            length = self.tower.context_length
        ids = torch.full((len(rows), length), pad, dtype=torch.long, device=device)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        ends = torch.tensor([self.tower.place(len(row) - len(suffix)) for row in rows], device=device)
        self.register_buffer(f"{name}_ids", ids, persistent=False)
        self.register_buffer(f"{name}_ends", ends, persistent=False)

    def train(self, mode: bool = True) -> "PromptedTextEncoder":
        """The text encoder is frozen and stays in evaluation mode."""
        if mode != self.training:
            self.forget()
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self) -> TextFeatures:
        """The embeddings of the current classes; see :class:`TextFeatures`."""
        if torch.is_grad_enabled() and self.training:
            return self._encode()
        key = self._encoder_state()
        if self._kept is None or self._kept[0] != key:
            with torch.no_grad():
                self._kept = (key, self._encode())
        return self._kept[1]

    def _encoder_state(self) -> tuple:
        """What embeddings depend on besides the prompts: mixed precision, and the text encoder, which copies share."""
        return torch.is_autocast_enabled(self.tower.token_embedding.weight.device.type), self.tower.revision

    def _encode(self) -> TextFeatures:
        fixed = self._fixed_phrases()
        phrases = fixed if self.prompts is None else self._embed_phrases("prompted", self.prompts)
        return TextFeatures(
            text_embeddings=self._mean_over_phrases(phrases),
            phrase_embeddings=phrases,
            prototypes=self._mean_over_phrases(fixed),
            phrase_class=self.phrase_class,
            phrase_prototypes=fixed,
        )

    @torch.no_grad()
    def _fixed_phrases(self) -> Tensor:
        key = self._encoder_state()
        if self._kept_fixed is None or self._kept_fixed[0] != key:
            self._kept_fixed = (key, self._embed_phrases("fixed", None))
        return self._kept_fixed[1]

    def _embed_phrases(self, name: str, prompts: Tensor | None) -> Tensor:
        ids, ends = getattr(self, f"{name}_ids"), getattr(self, f"{name}_ends")
        tokens = self.tower.token_embedding(ids)  # (K, n, width)
        if prompts is not None:
            filled = prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
            first = len(self.tokens.prefix)
            tokens = torch.cat((tokens[:, :first], filled, tokens[:, first + len(prompts) :]), dim=1)
        return F.normalize(self.tower(tokens, ends).float(), dim=-1)

    def _mean_over_phrases(self, phrases: Tensor) -> Tensor:
        if len(phrases) == self.num_classes:
            return phrases
        total = phrases.new_zeros(self.num_classes, phrases.shape[1]).index_add(0, self.phrase_class, phrases)
        return F.normalize(total, dim=-1)

    def __deepcopy__(self, memo) -> "PromptedTextEncoder":
        """A copy with its own prompts. It shares the frozen text encoder."""
        memo[id(self.tower)] = self.tower
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        nn.Module.__init__(copied)
        for key, value in self.__dict__.items():
            copied.__dict__[key] = None if key in ("_kept", "_kept_fixed") else deepcopy(value, memo)
        return copied


def weights_changed(network: nn.Module, frozen: bool = False) -> None:
    """Make all text encoders of a network forget their kept embeddings. Call it after writing weights in place.

    Args:
        frozen: weights of the frozen text encoder were written too.
    """
    for part in network.modules():
        if isinstance(part, PromptedTextEncoder):
            part.forget()
        elif isinstance(part, _TextTransformer) and frozen:
            part.revision += 1


def build_text_encoder(
    cfg, class_phrases: Sequence[Sequence[str]], num_prompts: int = 0
) -> tuple[PromptedTextEncoder, float]:
    """The text encoder of ``MODEL.CLIP`` behind the prompts of ``MODEL.TEXT``, and CLIP's factor on its
    similarities."""
    clip: Any
    clip, tokens = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.CLIP.TOKENIZER)
    encoder = PromptedTextEncoder(
        clip,
        tokens,
        class_phrases,
        num_prompts=num_prompts,
        prompt_init=cfg.MODEL.TEXT.PROMPT_INIT,
        template=cfg.MODEL.TEXT.TEMPLATE,
    )
    return encoder, clip.logit_scale.exp().item()


class _TextTransformer(nn.Module):
    """The text encoder of an open_clip model. It takes token embeddings instead of token ids.

    Most models read the embedding at the end token (``pool_type`` "argmax" or "eos") and see only what comes before it.
    Others also see the padding, or read the last position (SigLIP) or the first: they get their whole context.
    """

    attn_mask: Tensor | None

    def __init__(self, clip: Any):
        super().__init__()
        text = getattr(clip, "text", clip)
        needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection", "attn_mask")
        if any(not hasattr(text, name) for name in needed):
            raise UserError("MODEL.CLIP.NAME: the text encoder is not of the CLIP layout; choose for example ViT-B-16.")
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.context_length = clip.context_length
        self.pool_type = text.pool_type if text is not clip else clip.text_pool_type
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self.revision = 0  # grows when the weights may have changed

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.revision += 1

    def _apply(self, *args, **kwargs) -> "_TextTransformer":
        self.revision += 1
        return super()._apply(*args, **kwargs)

    @property
    def reads_padding(self) -> bool:
        """Whether tokens behind the end token change the embedding."""
        return self.attn_mask is None or self.pool_type == "last"

    def place(self, end: int) -> int:
        """The position where the embedding is read, for a phrase with its end token at ``end``."""
        return {"first": 0, "last": self.context_length - 1}.get(self.pool_type, end)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """tokens (K, n, width), places (K,) of :meth:`place` → (K, D)."""
        length = tokens.shape[1]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length].to(tokens.dtype)
        x = tokens + self.positional_embedding[:length].to(tokens.dtype)
        x = self.transformer(x, attn_mask=mask)
        x = self.ln_final(x)[torch.arange(len(x), device=x.device), places]
        if self.text_projection is None:
            return x
        return self.text_projection(x) if isinstance(self.text_projection, nn.Module) else x @ self.text_projection
