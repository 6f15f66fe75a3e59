"""From a scene to what a caption says of it, and from that to an English sentence."""

from __future__ import annotations

from random import Random

from mmcontrast.data.scene_world import CaptionMeaning, PartialObject, Scene, SceneObject, pick, pick_weighted

# The first word of each entry is the usual one; the others keep a model from learning single words by heart.
_SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart", "love heart"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "crescent": ("crescent", "crescent moon"),
    "hexagon": ("hexagon",),
    "diamond": ("diamond", "rhombus"),
    "flower": ("flower", "blossom"),
    "arrow": ("arrow",),
}
_COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose-coloured"),
    "brown": ("brown", "chocolate brown"),
    "black": ("black", "jet-black"),
    "white": ("white", "snow-white"),
}
_TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
}
_TEXTURE_TAILS = {"striped": "with stripes", "dotted": "with dots", "checked": "with a check pattern"}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_POSITION_WORDS = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "centre": ("in the middle", "in the centre"),
}
_RELATION_WORDS = {
    "left of": ("to the left of", "left of", "at the left of"),
    "right of": ("to the right of", "right of", "at the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "in front of": ("in front of", "partly covering"),
    "behind": ("behind", "partly hidden by"),
    "inside": ("inside", "within", "enclosed by"),
    "around": ("around", "enclosing", "surrounding"),
}
_BACKGROUND_WORDS = {
    "sky": ("in a blue sky", "among the clouds", "against a cloudy sky"),
    "sunset": ("at sunset", "in the evening glow", "against a sunset sky"),
    "night": ("at night", "in the night sky", "on a dark night"),
    "grass": ("on the grass", "on a green lawn", "in a meadow"),
    "sand": ("on the sand", "on a sandy beach", "in the desert"),
    "water": ("on the water", "on the sea", "on rippling water"),
    "brick": ("on a brick wall", "against a wall of bricks"),
    "wood": ("on a wooden table", "on wooden boards"),
    "paper": ("on squared paper", "on a sheet of paper"),
}
# How many of a scene's objects a caption mentions, by how many there are.
_MENTIONED: dict[int, dict[int, float]] = {1: {1: 1}, 2: {1: 0.3, 2: 0.7}, 3: {1: 0.2, 2: 0.5, 3: 0.3}}
_SENTENCES = (
    "{it}", "{it}", "{it}.", "a picture of {it}", "a picture with {it}", "there is {it}", "an image of {it}",
    "{it} can be seen", "this picture shows {it}", "we see {it}", "{it} is shown", "a scene with {it}",
)  # fmt: skip


def class_names() -> list[str]:
    """The shapes' usual names, in label order; they read well in "a picture of a {c}"."""
    return list(_SHAPE_WORDS)


def _mention(random: Random, thing: SceneObject, with_position: bool) -> PartialObject:
    """Some true words about one object; never nothing but "shape"."""
    colour = thing.colour if random.random() < 0.75 else None
    shape = thing.shape if colour is None or random.random() < 0.86 else None
    texture = thing.texture if random.random() < (0.08 if thing.texture == "plain" else 0.4) else None
    position = None
    if with_position and random.random() < 0.25:
        position = pick(random, [p for p in _POSITION_WORDS if thing.is_at(p)])
    return PartialObject(shape, colour, texture, thing.size if random.random() < 0.3 else None, position)


def draw_meaning(random: Random, scene: Scene) -> CaptionMeaning:
    """Something true to say about a scene: some of its objects, some of their attributes, perhaps where they are."""
    background = scene.background if random.random() < 0.33 else None
    count = len(scene.objects)
    mentioned = pick_weighted(random, _MENTIONED[count])
    if mentioned == 1:
        # The main object is what most people would name first.
        thing = scene.objects[0] if random.random() < 0.8 else pick(random, scene.objects)
        return CaptionMeaning((_mention(random, thing, True),), None, background)
    if mentioned == 3:
        return CaptionMeaning(tuple(_mention(random, thing, False) for thing in scene.objects), None, background)
    first, second = (0, 1) if count == 2 else pick(random, ((0, 1), (0, 2), (1, 2)))
    if random.random() < 0.5:
        first, second = second, first
    relation = scene.relation(first, second) if random.random() < 0.8 else None
    objects = (_mention(random, scene.objects[first], False), _mention(random, scene.objects[second], False))
    return CaptionMeaning(objects, relation, background)


def _noun_phrase(random: Random, said: PartialObject) -> str:
    """Like "a small striped red star on the left", in one of several wordings."""
    words, tail = [], ""
    if said.size:
        words.append(pick(random, _SIZE_WORDS[said.size]))
    if said.texture in _TEXTURE_TAILS and random.random() < 0.3:
        tail = f" {_TEXTURE_TAILS[said.texture]}"
    elif said.texture:
        words.append(pick(random, _TEXTURE_WORDS[said.texture]))
    if said.colour:
        words.append(_usual_first(random, _COLOUR_WORDS[said.colour]))
    words.append(_usual_first(random, _SHAPE_WORDS[said.shape]) if said.shape else "shape")
    if said.position:
        tail += f" {pick(random, _POSITION_WORDS[said.position])}"
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}{tail}"


def _usual_first(random: Random, words: tuple[str, ...]) -> str:
    return words[0] if random.random() < 0.7 else pick(random, words)


def word_meaning(random: Random, meaning: CaptionMeaning) -> str:
    """One of the many sentences that say exactly this."""
    phrases = [_noun_phrase(random, said) for said in meaning.objects]
    if meaning.relation:
        text = f"{phrases[0]} {pick(random, _RELATION_WORDS[meaning.relation])} {phrases[1]}"
    elif len(phrases) == 1:
        text = phrases[0]
    else:
        joint = pick(random, (" and ", " and ", " together with ", " along with ")) if len(phrases) == 2 else " and "
        text = f"{', '.join(phrases[:-1])}{joint}{phrases[-1]}"
    if meaning.background:
        text += f" {pick(random, _BACKGROUND_WORDS[meaning.background])}"
    sentence = pick(random, _SENTENCES).format(it=text)
    if len(phrases) > 1:
        sentence = sentence.replace("there is ", "there are ", 1) if meaning.relation is None else sentence
        sentence = sentence.replace(" is shown", " are shown") if meaning.relation is None else sentence
    return sentence[0].upper() + sentence[1:] if random.random() < 0.3 else sentence
