"""Publish a trained model on the Hub in all formats that can express it, then load it by its name.

Example: python recipes/export_to_hub.py runs/flickr8k/model my-org/my-model --private
"""

import argparse
import json

import mmcontrast


def main() -> None:
    """Parse, push, load what is published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, such as RUN/model")
    parser.add_argument("repo", help="ORGANISATION/NAME; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="a branch instead of main")
    parser.add_argument("--format", dest="formats", action="append", help="repeatable; all if left out")
    parser.add_argument("--publish", action="store_true", help="without it, only list what would be pushed")
    arguments = parser.parse_args()

    options = {"private": arguments.private, "revision": arguments.revision}
    formats = arguments.formats or "all"
    pushed = mmcontrast.push_to_hub(
        arguments.model, arguments.repo, formats, dry_run=not arguments.publish, say=print, **options
    )
    print("\n".join(pushed.plan.lines()))
    if arguments.publish:
        model = mmcontrast.DualEncoder.from_pretrained(arguments.repo, revision=pushed.commit)
        print(json.dumps({"url": pushed.url, "commit": pushed.commit, "embed_dim": model.embed_dim}, indent=2))


if __name__ == "__main__":
    main()
