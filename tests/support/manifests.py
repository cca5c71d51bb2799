"""A valid manifest for tests."""

from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Manifest, Proof, Provenance

MANIFEST = Manifest(
    labels=("ant", "bee"),
    preprocess=PreprocessSpec(resize=(256,), crop=(224, 200)),
    precision="fp32",
    max_batch=64,
    metrics={"val_accuracy": 0.95},
    provenance=Provenance(
        backbone="resnet18",
        weights="default",
        weights_sha256="",
        cut="layer4",
        seed=0,
        images=100,
        versions={"torch": "2.15"},
    ),
    proof=Proof(
        images=10,
        batch_sizes=(1, 7),
        largest_difference=1e-6,
        tolerance=1e-4,
        same_top1=1.0,
        accuracy=0.9,
        trained_accuracy=0.9,
    ),
)
