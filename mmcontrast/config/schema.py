"""The schema of a run: strict sections, each field described beneath it.

`load.py` makes a `Config` from YAML; `checks.py` holds the rules between fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mmcontrast.config.checks import linked_defaults, problems_between_fields
from mmcontrast.config.negatives import NegativesConfig
from mmcontrast.config.section import Count, Positive, Section, Share, Text

Projection = Literal["linear", "mlp", "none"]
MAX_SOURCES = 512


class LoraConfig(Section):
    """Low-rank adapters (LoRA), trained in place of a tower's own weights; they are merged into the saved model."""

    rank: Count = 8
    """Rank of each adapter: more learns more, and costs more memory."""
    alpha: Positive | None = None
    """Adapters count alpha / rank; null takes 2 * rank."""
    dropout: Share = 0.0
    """Dropout on the input of each adapter."""
    targets: Annotated[list[Text], Field(min_length=1)] | None = None
    """Linear layers by name or its end (mlp.c_fc), or modules around them (attn); null takes all the tower calls."""


class TowerConfig(Section):
    """What both towers have."""

    name: Text | None = None
    """Architecture in that library, a local folder, or a Hub name; null builds it from kwargs (timm: resnet18)."""
    pretrained: bool | Text = False
    """Start from pretrained weights: true, or the tag of the weights (open_clip)."""
    kwargs: dict[str, Any] = {}
    """Further arguments of the library's constructor, passed on as they are."""
    projection: Projection = "linear"
    """Map from the tower's width to embed_dim."""
    dropout: Share = 0.0
    """Dropout before the projection."""
    locked: bool = False
    """Keep the tower's weights as they are and train the rest."""
    lora: LoraConfig | None = None
    """Train adapters and keep the tower's own weights as they are; needs peft. null trains the tower itself."""


class ImageTowerConfig(TowerConfig):
    """Which network reads the picture."""

    library: Literal["timm", "open_clip", "transformers"] = "timm"
    """Library that the image tower comes from."""
    image_size: Annotated[int, Field(ge=8)] = 64
    """Side of the square input in pixels."""
    patch_dropout: Share = 0.0
    """Share of the patches that a step leaves out, vision transformers of open_clip and timm only: at 0.5 the tower
    costs half (FLIP)."""


class TextTowerConfig(TowerConfig):
    """Which network reads the caption."""

    library: Literal["open_clip", "transformers", "bag_of_words"] = "open_clip"
    """Library that the text tower comes from (bag_of_words: our own, cheapest, blind to word order).

    A text section without library, name and kwargs is an open_clip tower of 4 layers of 256.
    """
    context_length: Annotated[int, Field(ge=4)] = 32
    """Longest caption in tokens, begin and end marks included; longer ones are cut and counted (4 at least)."""


class TokenizerConfig(Section):
    """How a caption becomes token ids."""

    kind: Literal["sentencepiece", "clip", "transformers"] = "sentencepiece"
    """Family of the tokenizer; clip is open_clip's BPE."""
    name: Text | None = None
    """Folder, Hub name or .model file; null with sentencepiece trains one on the training captions."""
    vocab_size: Annotated[int, Field(ge=32)] = 4000
    """Pieces of a SentencePiece vocabulary that is trained here."""


class ModelConfig(Section):
    """The dual encoder."""

    embed_dim: Count = 256
    """Size of the shared embedding."""
    init_from: Text | None = None
    """Model whose towers, tokenizer, preprocessing and weights are the start: a folder or Hub name, also of open_clip
    (open_clip:MODEL/TAG), transformers or sentence-transformers."""
    image: ImageTowerConfig = ImageTowerConfig()
    """The image tower."""
    text: TextTowerConfig = TextTowerConfig()
    """The text tower."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer."""
    logit_scale: Annotated[float, Field(ge=1)] = 14.285714
    """First value of the scale (1 / temperature, not its logarithm); 10 with the sigmoid loss unless given."""
    logit_scale_learnable: bool = True
    """Train the scale."""
    logit_scale_max: Annotated[float, Field(ge=1)] = 100.0
    """The scale is clamped to this."""
    logit_bias: float | None = None
    """Offset of the logits; null means none, and -10 with the sigmoid loss, as in SigLIP."""


class SourceConfig(Section):
    """One set of pairs."""

    path: Text
    """File, glob, folder, Hub name or synthetic://scenes; relative paths start at the current directory."""
    split: Text | None = None
    """Split of a Hub or saved data set."""
    format: Text | None = None
    """Kind of the files; null guesses it from their names."""
    rows: Count | None = None
    """Use only so many rows."""


class MixedSourceConfig(SourceConfig):
    """One of several sets of pairs that are mixed."""

    weight: Positive = 1.0
    """Share of the pairs that are drawn from it, relative to the other sources: 3 beside 1 is three pairs in four."""
    image_column: Text | None = None
    """Column of its pictures; null takes data.image_column."""
    caption_column: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Column or columns of its captions; null takes data.caption_column."""
    label_column: Text | None = None
    """Column of its class labels; null takes data.label_column."""
    group_column: Text | None = None
    """Column of its groups; null takes data.group_column."""


class DataConfig(Section):
    """The pairs and how they are read."""

    train: SourceConfig | Annotated[list[MixedSourceConfig], Field(min_length=1, max_length=MAX_SOURCES)]
    """Pairs to learn from: one source, or a list of sources that are mixed by their weights when streaming."""
    validation: SourceConfig | None = None
    """Pairs to evaluate on; null turns evaluation off."""
    image_column: Text | None = None
    """Column of the pictures; null guesses it and says which."""
    caption_column: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Column or columns of the captions; null guesses them and says which."""
    label_column: Text | None = None
    """Column of the class labels; null guesses it and says which."""
    group_column: Text | None = None
    """Column whose equal values mark pairs that are no negatives of each other; null guesses it and says which."""
    caption_sampling: Literal["random", "all"] = "random"
    """An epoch draws one caption of each picture (random) or goes through all of them (all)."""
    augmentation: Literal["none", "light", "standard", "strong"] = "standard"
    """How strongly training pictures are varied."""
    crop_scale_min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of the picture that a random crop keeps; null takes the augmentation's own."""
    horizontal_flip: bool = True
    """Mirror half of the training pictures; turn off where captions speak of left and right."""
    rotate90: bool = False
    """Turn training pictures by multiples of 90 degrees, as fits pictures from above."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read and decode; 0 reads in the training process."""
    draft_decoding: bool = True
    """Decode large training JPEGs at 1/2, 1/4 or 1/8 of their size where all crops keep more pixels than they need."""
    image_cache: Text | None = None
    """Folder for training pictures that are decoded and made smaller once; evaluation reads the originals."""
    image_cache_size: Count | None = None
    """Shorter side of cached pictures; null: image_size / sqrt(crop_scale_min), at which no crop is enlarged."""
    pretokenize: bool | Literal["auto"] = "auto"
    """Tokenize all captions once at the start; auto: if the run draws that many captions and they are < 2 million."""
    streaming: bool = False
    """Read the training pairs in file order without loading an index of them; needs training.max_steps."""
    shuffle_buffer: Count = 10000
    """Pairs held back for shuffling when streaming, by as many readers as data.workers together."""
    stream_readers: Count | None = None
    """Readers a stream is dealt out to; any number of processes that divides it gets the same global batches and can
    resume the run. null: one for each process and worker."""
    read_retries: Annotated[int, Field(ge=0)] = 4
    """Further tries, with longer and longer waits, for a shard that fails when streaming; then its rest is skipped."""
    read_timeout_seconds: Positive | None = 300.0
    """Time without a row after which a streamed shard counts as stalled, which is a failed try; null waits for ever."""
    max_bad_row_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Stop when a larger share of the rows cannot be used."""
    max_image_pixels: Count = 100_000_000
    """Pictures with more pixels are bad rows; seen in the header, before decoding."""

    @property
    def sources(self) -> list[SourceConfig]:
        """The sources of the training pairs, be it one or more."""
        return list(self.train) if isinstance(self.train, list) else [self.train]


class TrainingConfig(Section):
    """How the model is trained."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Decides weights, order, captions and augmentation."""
    epochs: Count = 10
    """Passes over the training pairs, unless max_steps is given."""
    max_steps: Count | None = None
    """Optimiser steps of the whole run; null takes epochs."""
    global_batch_size: Annotated[int, Field(ge=2)] = 256
    """Pairs that are compared with each other in a step, over all devices (2 at least, or there is no negative)."""
    micro_batch_size: Count | None = None
    """Pairs that a device takes through the towers at a time, for the same gradient in less memory; null takes all."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decay of matrices; norms and biases have none."""
    beta1: Share = 0.9
    """AdamW's first moment."""
    beta2: Share = 0.98
    """AdamW's second moment."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps in which the learning rate rises; null takes warmup_share."""
    warmup_share: Share = 0.05
    """Share of all steps in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    gradient_clip_norm: Positive | None = 1.0
    """Longest gradient; null does not clip."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the towers; auto is bf16 on a GPU that has it, otherwise fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile both towers when training begins (minutes): pays on GPUs and in long runs, on CPUs hardly."""
    process_timeout_seconds: Positive = 1800.0
    """Stop when another process has said nothing for so long; the others wait while the first one evaluates at the
    end, so leave time for that."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp splits weights, gradients and AdamW's state over the processes (FSDP2): less memory each, more traffic."""
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    """Loss over the batch's similarities."""
    loss_kernel: Literal["torch", "triton"] = "torch"
    """What computes it for 1024 pairs or more: triton, for GPUs, keeps tiles in SRAM; no GPU has timed it yet."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and save a moving average of the weights with this decay a step; null has none."""
    checkpoint_every_steps: Count | None = None
    """Also save a state to resume from every so many steps; null saves it at each evaluation and at the end."""
    checkpoint_every_minutes: Positive | None = None
    """Also save a state to resume from whenever so much time has passed since the last one; null goes by steps only."""
    keep_checkpoints: Count = 2
    """Latest whole checkpoints that are kept; one that is found damaged makes the run go on from the one before."""
    max_bad_steps: Count = 3
    """Stop after so many steps in a row with a loss or gradient that is not finite; fewer are skipped and listed."""
    loss_spike_factor: Annotated[float, Field(gt=1)] | None = 3.0
    """Warn of, and list, a step whose loss is so many times the median of the last 64; null never does."""
    log_every_steps: Count = 10
    """Steps between lines of metrics.jsonl."""
    trackers: list[Text] = ["tensorboard"]
    """Accelerate's trackers, by name."""
    early_stopping_patience: Count | None = None
    """Stop after so many evaluations without gain; null never does."""


class EvaluationConfig(Section):
    """What is measured on the validation pairs, and when."""

    every_epochs: Count | None = 1
    """Epochs between evaluations; null for one at the end only, and for none without data.validation."""
    every_steps: Count | None = None
    """Steps between evaluations; takes the place of every_epochs."""
    tasks: Annotated[list[Literal["retrieval", "zero_shot"]], Field(min_length=1)] = ["retrieval", "zero_shot"]
    """What is measured; zero_shot is left out where the data has no labels."""
    batch_size: Count = 256
    """Pictures or captions embedded at a time."""
    keep_pictures_mb: Annotated[int, Field(ge=0)] = 1000
    """Memory, in MB a process, for decoded validation pictures, so that only the first evaluation decodes; 0 for none.

    A set that needs more is decoded anew each time.
    """
    templates: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Prompts of zero_shot with {} for the class name, or a file with one a line; null takes general ones."""
    classnames: dict[str, Text] | list[Text] | None = None
    """How prompts spell the classes: {label: words}, or a list in label order; null splits glued names."""
    positives: Literal["id", "caption", "group", "label"] = "id"
    """What makes a caption and a picture belong together in retrieval."""
    best_metric: Text = "retrieval.mean_recall"
    """TASK.METRIC whose highest value decides which model is the best."""
    inspect_negatives: Annotated[int, Field(ge=0)] = 1000
    """Training pairs that the report looks for false negatives among, drawn at random; 0 for none."""


class Config(Section):
    """A whole run."""

    output: Text = "runs/run"
    """Folder of the run; a file NAME.yaml without this key takes runs/NAME."""
    model: ModelConfig = ModelConfig()
    """The dual encoder."""
    data: DataConfig
    """The pairs and how they are read."""
    training: TrainingConfig = TrainingConfig()
    """How the model is trained."""
    negatives: NegativesConfig = NegativesConfig()
    """Who is a negative of whom."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured on the validation pairs, and when."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return linked_defaults(values)

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if problems := problems_between_fields(self):
            text = "; ".join(f"{field}: {message}" for field, message in problems)
            raise PydanticCustomError("between_fields", "{text}", {"text": text, "problems": problems})
        return self


def config_schema() -> dict[str, Any]:
    """JSON schema of the config, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
