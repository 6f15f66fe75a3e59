"""Classify pictures by the names of their classes, with a model that was never trained on those classes as such.

Example: python recipes/zero_shot_eval.py runs/ucm_captions/model val.parquet --label-column label_name
"""

import argparse
import json

import mmcontrast


def main() -> None:
    """Parse, evaluate with each single template and with all of them together, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, such as RUN/model")
    parser.add_argument("data", help="file, glob, folder or Hub name of the labelled pictures")
    parser.add_argument("--label-column", help="column of the class labels; guessed if left out")
    parser.add_argument("--split", help="split of a Hub or saved data set")
    parser.add_argument("--template", action="append", help="prompt with {} for the class name; repeatable")
    arguments = parser.parse_args()
    templates = arguments.template or ["{}", "a photo of a {}", "there is a {}"]

    scores = {}
    for prompts in [*([template] for template in templates), templates]:
        scores[" + ".join(prompts)] = mmcontrast.evaluate(
            arguments.model,
            data=arguments.data,
            task="zero_shot",
            split=arguments.split,
            label_column=arguments.label_column,
            templates=prompts,
        )["zero_shot"]
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
