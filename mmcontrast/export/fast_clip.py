"""CLIP's byte-pair encoding, as open_clip computes it, in the form of `tokenizers` (tokenizer.json)."""

from __future__ import annotations

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mmcontrast.export.fast_cleaning import cleaning

_END_OF_WORD = "</w>"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clip_to_fast() -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer that gives a text the ids of open_clip's, between two marks; and its marks by their names."""
    bpe = SimpleTokenizer()
    fast = Tokenizer(BPE(bpe.encoder, list(bpe.bpe_ranks), end_of_word_suffix=_END_OF_WORD))
    fast.normalizer = normalizers.Sequence(cleaning("lower"))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bos_id, eos_id = bpe.all_special_ids
    bos, eos = bpe.decoder[bos_id], bpe.decoder[eos_id]
    fast.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos], pair=[bos, "$A", eos, "$B", eos], special_tokens=[(bos, bos_id), (eos, eos_id)]
    )
    fast.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_END_OF_WORD, " ")])
    # open_clip takes the marks for themselves where a text spells them, in capitals too.
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=True) for mark in (bos, eos)])
    return fast, {"bos_token": bos, "eos_token": eos, "unk_token": eos, "pad_token": eos}
