"""fastai's usual recipe, `vision_learner(...).fine_tune(4)`, run by `bench.tune` in a separate environment.

Prints accuracy and balanced accuracy on the validation images as JSON. It loads the same weights as unfreeze.
"""

import argparse
import json

import torch
import torchvision
from fastai.vision.all import (
    BalancedAccuracy,
    ImageDataLoaders,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from fastai.vision.learner import model_meta


def main() -> None:
    """Tune and print the accuracies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    set_seed(arguments.seed, reproducible=True)
    builder = getattr(torchvision.models, arguments.backbone)

    def pretrained(*_: object, **__: object) -> torch.nn.Module:
        model = builder(weights=None)
        model.load_state_dict(torch.load(arguments.weights, map_location="cpu", weights_only=True))
        return model

    model_meta[pretrained] = model_meta[builder]
    loaders = ImageDataLoaders.from_folder(
        arguments.data, train="train", valid="val", item_tfms=Resize(256), batch_tfms=aug_transforms(size=224), bs=32
    )
    learner = vision_learner(loaders, pretrained, metrics=[accuracy, BalancedAccuracy()])
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(arguments.epochs)
    plain, balanced = learner.recorder.values[-1][-2:]
    print(json.dumps({"val_accuracy": float(plain), "val_balanced_accuracy": float(balanced)}))


if __name__ == "__main__":
    main()
