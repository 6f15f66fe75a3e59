"""Train a dual encoder from a config and load the best model of the run.

Example: python recipes/pretrain.py configs/quickstart.yaml --output runs/mine --set training.epochs=2
"""

import argparse
import json

import mmcontrast


def main() -> None:
    """Parse, train, load, print the final scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("--output", help="folder of the run, instead of the config's")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE")
    arguments = parser.parse_args()
    overrides = arguments.overrides + ([f"output={json.dumps(arguments.output)}"] if arguments.output else [])

    config = mmcontrast.load_config(arguments.config, overrides)
    run = mmcontrast.train(config)

    model = mmcontrast.DualEncoder.from_pretrained(run.run_dir / "model")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters in {run.run_dir / 'model'}")
    print(json.dumps(run.results, indent=2))


if __name__ == "__main__":
    main()
