"""Latency of a whole model against its rivals: `python -m abcfx bench model`, under the name of the example.

    python examples/model_latency.py torchvision.models:resnet18 --input 1,3,224,224 --bases 1,1 2,2 3,3
"""

import sys

from abcfx.cli.front import main

if __name__ == "__main__":
    sys.exit(main(["bench", "model", *sys.argv[1:]]))
